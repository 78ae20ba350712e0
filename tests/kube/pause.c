/* The container that holds a pod's namespaces: collects orphans, ends when told. */
#include <signal.h>
#include <sys/wait.h>

int main(void) {
    sigset_t set;
    int got;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, 0);
    while (sigwait(&set, &got) == 0 && got == SIGCHLD)
        while (waitpid(-1, 0, WNOHANG) > 0) {}
    return 0;
}
