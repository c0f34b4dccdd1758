# A server of the tests that notifications are sent to: endpoint.py https|https6|http|smtp|smtps|proxy DIRECTORY
#
# It listens on a free port of 127.0.0.1 (https6: of ::1) and writes it to DIRECTORY/port. What it receives goes to DIRECTORY/received,
# one JSON object a line. How it answers is in DIRECTORY/behaviour, read anew for each request: where there are several
# lines, the first one is used up. Over TLS it shows DIRECTORY/certificate.pem, whose key lies beside it.
import http.server
import json
import os
import socket
import ssl
import sys
import threading
import time

MODE, DIRECTORY = sys.argv[1], sys.argv[2]
LOCK = threading.Lock()


def path(name):
    return os.path.join(DIRECTORY, name)


def publish(name, text):
    with open(path(name + ".new"), "w") as file:
        file.write(text)
    os.rename(path(name + ".new"), path(name))


def record(**fields):
    with LOCK, open(path("received"), "a") as file:
        file.write(json.dumps({"at": time.time(), **fields}) + "\n")


def behaviour():
    with LOCK:
        with open(path("behaviour")) as file:
            lines = file.read().splitlines()
        if len(lines) > 1:
            publish("behaviour", "\n".join(lines[1:]))
        return lines[0].split(" ")


def tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path("certificate.pem"), path("key.pem"))
    return context


class Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        word, *rest = behaviour()
        record(
            method=self.command, path=self.path, headers={k.lower(): v for k, v in self.headers.items()},
            body=body.decode(), answer=" ".join([word, *rest]), peer=self.client_address[1])
        if word == "status":
            self.answer(int(rest[0]))
        elif word == "retry-after":
            self.answer(int(rest[0]), {"Retry-After": " ".join(rest[1:])})
        elif word == "redirect":
            self.answer(int(rest[0]), {"Location": rest[1]} if len(rest) > 1 else {})
        elif word == "huge":
            self.answer(200, body=b"x" * 1_000_000)
        elif word == "hang":
            time.sleep(3_600)
        elif word == "drip":
            # A body that never ends.
            self.send_response(int(rest[0]))
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while True:
                self.wfile.write(b"1\r\nx\r\n")
                self.wfile.flush()
                time.sleep(0.05)
        elif word == "slow":
            time.sleep(float(rest[0]))
            self.answer(200)
        elif word == "close":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
        elif word == "vanish":
            self.close_connection = True

    def answer(self, status, headers={}, body=b"{}"):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self):
        """A proxy's tunnel to whatever port was asked for, on this host."""
        record(method="CONNECT", path=self.path)
        target = socket.create_connection(("127.0.0.1", int(self.path.rsplit(":", 1)[1])))
        self.send_response(200)
        self.end_headers()
        pair = [(self.connection, target), (target, self.connection)]
        threads = [threading.Thread(target=copy, args=ends, daemon=True) for ends in pair]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.close_connection = True

    def log_message(self, *_):
        pass


def copy(source, sink):
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def finish_request(self, request, client_address):
        # In the connection's own thread: a client that is slow to greet holds up no other one.
        if MODE.startswith("https"):
            request = tls().wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass


def serve_http():
    if MODE == "https6":
        Server.address_family = socket.AF_INET6
    server = Server(("::1" if MODE == "https6" else "127.0.0.1", 0), Answering)
    publish("port", str(server.server_address[1]))
    server.serve_forever()


def serve_smtp():
    import asyncio

    from aiosmtpd.smtp import SMTP, AuthResult

    class Accepting:
        async def handle_RCPT(self, server, session, envelope, address, options):
            word, *rest = behaviour()
            if word == "status":
                return rest[0] + " as told"
            if word == "hang":
                await asyncio.sleep(3_600)
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server, session, envelope):
            record(
                sender=envelope.mail_from, recipients=envelope.rcpt_tos, data=envelope.content.decode(),
                encrypted=session.ssl is not None or MODE == "smtps", user=getattr(session.auth_data, "user", None),
                name=session.host_name)
            return "250 OK"

    class Login:
        def __init__(self, user):
            self.user = user

    def authenticate(server, session, envelope, mechanism, data):
        known = data.login in (b"mailer", b"mailer@example.com") and data.password == b"planted-smtp-password"
        return AuthResult(success=known, handled=False, auth_data=Login(data.login.decode()))

    offers_tls = MODE == "smtp" and os.path.exists(path("certificate.pem"))

    class Server(SMTP):
        async def auth_GSSAPI(self, server, args):
            """Offered, as by many servers of companies, and of no use without a ticket."""
            return AuthResult(success=False, handled=False)

    def protocol():
        return Server(
            Accepting(), tls_context=tls() if offers_tls else None, authenticator=authenticate,
            auth_require_tls=offers_tls, hostname="localhost")

    async def run():
        server = await asyncio.get_running_loop().create_server(
            protocol, "127.0.0.1", 0, ssl=tls() if MODE == "smtps" else None)
        publish("port", str(server.sockets[0].getsockname()[1]))
        await server.serve_forever()

    asyncio.run(run())


serve_smtp() if MODE.startswith("smtp") else serve_http()
