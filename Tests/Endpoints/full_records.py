# Ends TLS before a PostgreSQL server: full_records.py CERTIFICATE KEY UPSTREAM PORT_FILE
#
# It listens on a free port of 127.0.0.1 and writes it to PORT_FILE. What the server at the port UPSTREAM answers goes
# on in records of 16 kB, the most that TLS has, where PostgreSQL itself writes 8 kB. Good for the one client of a test.
import os
import socket
import ssl
import sys
import threading

CERTIFICATE, KEY, UPSTREAM, PORT_FILE = sys.argv[1:5]
RECORD = 16384


def to_server(client, server):
    while data := client.recv(65536):
        server.sendall(data)
    server.shutdown(socket.SHUT_WR)


def to_client(client, server):
    held = b""
    server.settimeout(0.02)
    while True:
        try:
            data = server.recv(65536)
            if not data:
                break
            held += data
        except TimeoutError:
            client.sendall(held)
            held = b""
        while len(held) >= RECORD:
            client.sendall(held[:RECORD])
            held = held[RECORD:]
    client.sendall(held)


listener = socket.create_server(("127.0.0.1", 0))
with open(PORT_FILE + ".new", "w") as file:
    file.write(str(listener.getsockname()[1]))
os.rename(PORT_FILE + ".new", PORT_FILE)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
while True:
    plain, _ = listener.accept()
    plain.recv(8)  # SSLRequest
    plain.sendall(b"S")
    client = context.wrap_socket(plain, server_side=True)
    server = socket.create_connection(("127.0.0.1", int(UPSTREAM)))
    threading.Thread(target=to_server, args=(client, server), daemon=True).start()
    threading.Thread(target=to_client, args=(client, server), daemon=True).start()
