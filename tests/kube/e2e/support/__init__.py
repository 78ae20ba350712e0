"""What the Kubernetes tests share: the cluster, ChronikCluster objects, clients that count, artefacts of failures."""
