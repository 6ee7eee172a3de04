import socket, sys, time  # noqa: E401, I001

_, port, interval = sys.argv
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sock.sendto(b"74.3,25.7", ("127.0.0.1", int(port)))
    time.sleep(float(interval))
