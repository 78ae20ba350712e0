"""What the end-to-end tests share: real broker processes, network namespaces, a DNS server, clients and checks."""
