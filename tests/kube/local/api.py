"""The few calls of the Kubernetes API that the local cluster and its tests make themselves, without a client library."""

import http.client
import json
import socket
import ssl
import urllib.parse


class ApiError(Exception):
    def __init__(self, status, body):
        self.status = status
        self.reason = body.get("reason", "") if isinstance(body, dict) else ""
        super().__init__(f"{status} {body.get('message', body) if isinstance(body, dict) else body}")


class _NoDelay(http.client.HTTPSConnection):
    def connect(self):
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Api:
    """One identity against one API server; every call is its own connection unless it watches."""

    def __init__(self, host, port, ca, certificate, key, timeout=10):
        self.host, self.port, self.timeout = host, port, timeout
        self.context = ssl.create_default_context(cafile=str(ca))
        self.context.load_cert_chain(str(certificate), str(key))

    @classmethod
    def of(cls, run, identity="admin", host=None):
        pki = run.dir / "pki"
        return cls(host or run.address(1), 6443, pki / "ca.crt", pki / f"{identity}.crt", pki / f"{identity}.key")

    def _open(self, method, path, body, kind, timeout):
        connection = _NoDelay(self.host, self.port, context=self.context, timeout=timeout)
        data = json.dumps(body) if body is not None else None
        connection.request(method, path, data, {"Content-Type": kind, "Accept": "application/json"})
        return connection, connection.getresponse()

    def call(self, method, path, body=None, kind="application/json"):
        """The decoded answer; raises ApiError for a refusal and OSError when nobody answers."""
        connection, answer = self._open(method, path, body, kind, self.timeout)
        try:
            data = answer.read()
        finally:
            connection.close()
        try:
            decoded = json.loads(data)
        except ValueError:
            decoded = data.decode(errors="replace")
        if answer.status >= 300:
            raise ApiError(answer.status, decoded)
        return decoded

    def get(self, path, **query):
        return self.call("GET", path + ("?" + urllib.parse.urlencode(query) if query else ""))

    def items(self, path, **query):
        return self.get(path, **query).get("items") or []

    def create(self, path, body):
        return self.call("POST", path, body)

    def patch(self, path, body):
        return self.call("PATCH", path, body, "application/merge-patch+json")

    def delete(self, path):
        return self.call("DELETE", path)

    def watch(self, path, seconds=60, **query):
        """Events as (type, object) until `seconds` have passed or the server ends the watch."""
        query = urllib.parse.urlencode({**query, "watch": "1", "timeoutSeconds": str(seconds)})
        connection, answer = self._open("GET", f"{path}?{query}", None, "application/json", seconds + 10)
        try:
            if answer.status >= 300:
                raise ApiError(answer.status, json.loads(answer.read()))
            for line in answer:
                event = json.loads(line)
                yield event["type"], event["object"]
        finally:
            connection.close()
