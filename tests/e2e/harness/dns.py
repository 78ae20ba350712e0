"""A real DNS server whose records change while brokers run."""

from dnslib import AAAA, QTYPE, RCODE, RR, SRV, A, DNSError
from dnslib.server import BaseResolver, DNSLogger, DNSServer


class Zone(BaseResolver):
    """Names to addresses, services to targets; can be told to fail in the ways that DNS fails."""

    def __init__(self):
        self.hosts = {}
        self.services = {}
        self.failure = None
        self.ttl = 1
        self.queries = 0

    def set_host(self, name, address):
        self.hosts[name.rstrip(".").lower()] = address

    def set_service(self, name, targets):
        """`targets` is a list of (host, port)."""
        self.services[name.rstrip(".").lower()] = targets

    def resolve(self, request, handler):
        self.queries += 1
        reply = request.reply()
        if self.failure == "SERVFAIL":
            reply.header.rcode = RCODE.SERVFAIL
            return reply
        if self.failure == "TIMEOUT":
            raise DNSError("told not to answer")
        name = str(request.q.qname).rstrip(".").lower()
        kind = QTYPE[request.q.qtype]
        known = name in self.hosts or name in self.services
        if not known:
            reply.header.rcode = RCODE.NXDOMAIN
            return reply
        address = self.hosts.get(name)
        if address and kind == "A" and ":" not in address:
            reply.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=self.ttl))
        if address and kind == "AAAA" and ":" in address:
            reply.add_answer(RR(name, QTYPE.AAAA, rdata=AAAA(address), ttl=self.ttl))
        targets = self.services.get(name, [])
        if kind == "SRV":
            for host, port in targets:
                reply.add_answer(RR(name, QTYPE.SRV, rdata=SRV(0, 0, port, host), ttl=self.ttl))
        if kind == "A" and targets:
            for host, _ in targets:
                if self.hosts.get(host):
                    reply.add_answer(RR(name, QTYPE.A, rdata=A(self.hosts[host]), ttl=self.ttl))
        return reply


class Server:
    """Serves a `Zone` on an address until the context ends."""

    def __init__(self, address, port):
        self.zone = Zone()
        self.address, self.port = address, port

    def __enter__(self):
        silent = DNSLogger(logf=lambda _: None)
        self._udp = DNSServer(self.zone, address=self.address, port=self.port, logger=silent)
        self._tcp = DNSServer(self.zone, address=self.address, port=self.port, tcp=True, logger=silent)
        self._udp.start_thread()
        self._tcp.start_thread()
        return self

    def __exit__(self, *_):
        for server in (self._udp, self._tcp):
            server.stop()
            server.server.server_close()
