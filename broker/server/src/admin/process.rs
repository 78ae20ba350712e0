//! What the operating system says of this process (Linux: `/proc/self`).

use super::status::Process;

/// Reads memory, CPU time, descriptors and threads; fields that cannot be read stay zero.
#[must_use]
pub fn sample() -> Process {
    let mut process = Process { pid: std::process::id(), ..Process::default() };
    if let Ok(text) = std::fs::read_to_string("/proc/self/statm")
        && let Some(pages) = text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok())
    {
        process.rss_bytes = pages * rustix::param::page_size() as u64;
    }
    if let Ok(text) = std::fs::read_to_string("/proc/self/stat")
        && let Some((_, fields)) = text.rsplit_once(") ")
    {
        let field = |n: usize| fields.split(' ').nth(n).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
        process.cpu_seconds = (field(11) + field(12)) as f64 / rustix::param::clock_ticks_per_second() as f64;
        process.threads = field(17);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        process.open_fds = entries.count() as u64;
    }
    process
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_running_process_has_memory_threads_and_descriptors() {
        let process = super::sample();
        assert!(process.rss_bytes > 100_000 && process.threads >= 1 && process.open_fds >= 3, "{process:?}");
    }
}
