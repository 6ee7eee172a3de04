"""The client on its way to the server: what is wrong with it is told at once, and once."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

from support.tools import cpu, free_port, lines, missing, needs, needs_namespaces, until

NAMED = ["--name", "kitchen"]
SIGNED = ["--key", "key", "--port", "10003"]

# A network of three: the Pi, a router that is a desktop too, and a desktop that answers to nothing.
NETWORK = """
ip link set lo up
unshare -n sleep 100 & there=$!
while [ $(readlink /proc/$there/ns/net) = $(readlink /proc/self/ns/net) ]; do sleep 0.01; done
ip link add pi type veth peer name desktop netns $there
ip addr add 10.9.8.1/24 dev pi
ip addr add fd09::1/64 dev pi nodad
ip link set pi up
nsenter -t $there -n sh -ec '
    ip addr add 10.9.8.2/24 dev desktop
    ip addr add fd09::2/64 dev desktop nodad
    ip link set desktop up
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 0 > /proc/sys/net/ipv4/icmp_ratelimit
    ip route add prohibit 10.6.0.5/32
    ip route add prohibit 10.7.0.5/32'
for other in 6 7; do  # a source for each: to one host errors are sent once a second at most
    ip addr add 10.9.8.$other/24 dev pi
    ip route add 10.$other.0.0/16 via 10.9.8.2 src 10.9.8.$other
done
ip neigh add 10.9.8.66 lladdr 02:00:00:00:00:66 dev pi
echo ready
exec sleep 100
"""


@pytest.fixture
def network(tmp_path):
    """Return the words before a command that is to run on the Pi of this network."""
    needs_namespaces()
    needs("ip", "nsenter")
    probe = "ip link add pi type veth peer name desktop && ip addr add fd09::1/64 dev pi nodad"
    if subprocess.run(["unshare", "-rn", "sh", "-c", probe], stderr=subprocess.DEVNULL).returncode:
        missing("the right to make networks (unshare -rn, veth, IPv6)")
    with open(tmp_path / "network", "wb") as out:
        pi = subprocess.Popen(["unshare", "-rn", "sh", "-ec", NETWORK], stdout=out, stderr=out)
    try:
        until(lambda: b"ready" in (tmp_path / "network").read_bytes())
        until(lambda: os.readlink(f"/proc/{pi.pid}/exe").endswith("sleep"))
        yield ["nsenter", "-t", str(pi.pid), "-U", "-n", "--preserve-credentials"]
    finally:
        subprocess.run(["pkill", "-P", str(pi.pid)], check=False)
        pi.kill()
        pi.wait()


NO_ROUTE = r"no route to {}: a wrong address, or its firewall refuses"
REFUSED = r"nothing listens on {}, or its firewall refuses UDP"
OWN = "; it is this machine itself: SERVER is the computer that runs server.py"
NO_ANSWER = r"no answer from {} for 5 s: .* the server's own screen tells what it refuses"
NO_NAME = r"cannot look up {} \(.*\); it keeps trying"
NO_HOST = r"client.py: error: argument SERVER: '{}' is not a host .*"
MISTAKES = {  # what is done wrong: SERVER, options, what is said, after how many seconds at most
    "wrong address": ("10.9.8.77", [], NO_ROUTE, 6),
    "wrong address, named": ("10.9.8.77", NAMED, NO_ROUTE, 6),
    "wrong address, IPv6": ("fd09::77", [], NO_ROUTE, 6),
    "wrong address, IPv6, named": ("fd09::77", NAMED, NO_ROUTE, 6),
    "firewall that rejects": ("10.7.0.5", [], NO_ROUTE, 3),
    "firewall that rejects, named": ("10.6.0.5", NAMED, NO_ROUTE, 3),
    "firewall that drops, named": ("10.9.8.66", NAMED, NO_ANSWER, 8),
    "its own address, IPv6": ("fd09::1", ["--port", "10009"], REFUSED + OWN, 3),
    "no server": ("10.9.8.2", [], REFUSED, 3),
    "no server, named": ("10.9.8.2", NAMED, REFUSED, 3),
    "no server, IPv6": ("fd09::2", [], REFUSED, 3),
    "wrong port": ("10.9.8.1", ["--port", "10002"], REFUSED + OWN, 3),
    "unsigned at a keyed server, named": ("10.9.8.1", NAMED, NO_ANSWER, 8),
    "signed at a server without keys": ("10.9.8.1", SIGNED, NO_ANSWER, 8),
    "no route": ("10.5.5.5", [], r"cannot send to {} \(Network is unreachable\); .*", 3),
    "unknown name": ("desktop.local", [], NO_NAME, 6),
    "unknown name, named": ("desktop.local", NAMED, NO_NAME, 6),
    "no address": ("192.168.1.300", [], NO_HOST, 3),
    "a port in it": ("127.0.0.1:10001", [], NO_HOST, 3),
}
# What a plain client can never be told.
SILENT = {
    "firewall that drops": ("10.9.8.66", []),
    "unsigned at a keyed server": ("10.9.8.1", []),
}
BUSY = 15  # seconds that a busy machine may take longer


def test_each_mistake_is_reported_within_seconds_and_once(network, script, tmp_path):
    key = tmp_path / "key"
    key.write_text(f"kitchen {'0a' * 32}\n")
    key.chmod(0o600)
    keyed = script("server", "--keys", key, "--quiet", "--log", "a.csv", prefix=network)
    keyless = script("server", "--port", 10003, "--quiet", prefix=network)
    for server in keyed, keyless:
        server.says("^listening on ")
    clients, words, said = {}, {}, {}
    cases = {what: case[:2] for what, case in MISTAKES.items()} | SILENT
    for number, (what, (host, options)) in enumerate(cases.items()):
        spool = ["--spool", f"{number}.spool"] if options in (NAMED, SIGNED) else []
        argv = [host, "--driver", "simulated", "--interval", 1, *options, *spool]
        words[what] = rf"\[?{re.escape(host)}\]?(:\d+)?"
        clients[what] = (script("client", *argv, prefix=network), time.monotonic())

    def all_said():
        for what, (_, _, pattern, _) in MISTAKES.items():
            client, start = clients[what]
            line = re.search(f"^{pattern.format(words[what])}$", client.err, re.MULTILINE)
            if line and what not in said:
                said[what] = line[0], time.monotonic() - start
        return len(said) == len(MISTAKES)

    try:
        until(all_said, seconds=30)
    finally:
        for what, (line, seconds) in said.items():
            print(f"| {what} | `{line}` | {seconds:.1f} |")
        print("not said:", MISTAKES.keys() - said.keys())
    for what, (_, seconds) in said.items():
        assert seconds < MISTAKES[what][3] + BUSY, what
    time.sleep(5)  # what comes and goes would have come again
    assert re.search("refused .*: unsigned", keyed.err)
    assert re.search("refused .*: signed, and this server has no --keys", keyless.err)
    for what, (client, _) in clients.items():
        talk = client.err.splitlines()
        assert len([line for line in talk if not re.match("driver|sending to", line)]) == (
            what not in SILENT
        ), (what, talk)


@pytest.mark.parametrize("options", [[], NAMED], ids=["plain", "named"])
def test_no_line_comes_and_goes_and_nothing_spins(network, script, options):
    """Errors come in turn with sends that succeed; an error queue left full would spin."""
    here = [*network, "sh", "-c", 'echo 100 > /proc/sys/net/ipv4/neigh/pi/retrans_time_ms; "$@"']
    subprocess.run([*here, "sh", "true"], check=True)
    client = script(
        *["client", "10.9.8.77", "--driver", "simulated", "--interval", 0.1, *options],
        *(["--spool", "spool"] if options else []),
        timers={
            "pi.link.RECOVERED": 1.0,
            "pi.delivery.RESEND": 0.1,
            "pi.delivery.FIRST_UNANSWERED": 1.0,
        },
        prefix=network,
    )
    client.says("^no route to 10.9.8.77")
    read, used = client.out.count("\n"), cpu(client.process)
    until(lambda: client.out.count("\n") > read + 20)
    assert cpu(client.process) - used < 0.5, "of two seconds"
    assert client.err.count("\n") == 3, client.err
    subprocess.run([*network, "ip", "addr", "add", "10.9.8.77/32", "dev", "lo"], check=True)
    client.says("^nothing listens on 10.9.8.77")
    server = script("server", "--quiet", prefix=network)
    client.says("10.9.8.77:10001 answers$" if options else "^sending to 10.9.8.77:10001 again$")
    assert client.err.count("\n") == 5, client.err
    assert client.stop() == 0 and server.stop() == 0


def names(*hosts):
    """Return Python that lets the name `desktop` have these addresses."""
    return f"""
from dht22.pi import link
resolve = link.resolve
link.resolve = lambda host, port: [resolve(each, port)[0] for each in {hosts!r}]
"""


@pytest.mark.parametrize("options", [[], NAMED], ids=["plain", "named"])
def test_the_next_address_of_a_name_is_tried_after_an_error(script, server, tmp_path, options):
    """`desktop` is ::1 and 127.0.0.1, and the server listens on IPv4 only."""
    running = server("--quiet", "--host", "127.0.0.1")
    client = script(
        *["client", "desktop", "--port", running.port, "--driver", "simulated", "--interval", 0.1],
        *[*options, "--count", 5, *(["--spool", "spool"] if options else [])],
        setup=names("::1", "127.0.0.1"),
    )
    assert client.wait() == 0
    until(lambda: len(lines(tmp_path / "datalog.txt")) >= (5 if options else 4))
    assert client.err.count("\n") == 3, "what is mended by the next address is no trouble"


def test_the_next_address_of_a_name_is_tried_after_silence(script, server, tmp_path):
    running = server("--quiet", "--host", "127.0.0.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.2", running.port))
        client = script(
            *["client", "desktop", "--port", running.port, "--driver", "simulated"],
            *["--interval", 0.1, "--count", 5, *NAMED, "--spool", "spool"],
            setup=names("127.0.0.2", "127.0.0.1"),
            timers={"pi.delivery.FIRST_UNANSWERED": 0.5, "pi.delivery.RESEND": 0.05},
        )
        assert client.wait() == 0
    assert len(lines(tmp_path / "datalog.txt")) == 5


SLOW = """
import socket, time
getaddrinfo = socket.getaddrinfo

def slow(*args, **keywords):
    began = time.monotonic()
    time.sleep(0.05)
    print(began, time.monotonic() - began, file=open("look-ups", "a"))
    {answer}

socket.getaddrinfo = slow
"""
IN_VAIN = 'raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")'
AT_LAST = "return getaddrinfo(*args, **keywords)"


@pytest.mark.parametrize("options", [[], NAMED], ids=["plain", "named"])
@pytest.mark.parametrize("answer", [IN_VAIN, AT_LAST], ids=["in vain", "at last"])
def test_a_slow_look_up_takes_a_tenth_of_the_time_at_most(script, tmp_path, options, answer):
    """No server is there, so that each reading asks for another look-up."""
    client = script(
        *["client", "127.0.0.1", "--port", 9, "--driver", "simulated", "--interval", 0.01],
        *[*options, *(["--spool", "spool"] if options else [])],
        setup=SLOW.format(answer=answer),
        timers={"pi.link.LOOK_UP": 0.001},
    )
    until(lambda: len(lines(tmp_path / "look-ups")) >= 4)
    assert client.stop() == 0
    look_ups = [tuple(map(float, line.split())) for line in lines(tmp_path / "look-ups")]
    took = sum(seconds for _, seconds in look_ups[:-1])
    share = took / (look_ups[-1][0] - look_ups[0][0])
    print(f"{share:.1%} of the time")
    assert share < 0.101


def test_a_reading_is_spooled_before_a_look_up(script, tmp_path):
    """The look-up blocks, and the client is killed."""
    port = free_port()
    client = script(
        *["client", "127.0.0.1", "--port", port, "--driver", "simulated", *NAMED],
        *["--spool", "spool"],
        setup="""
import socket, time
getaddrinfo = socket.getaddrinfo

def slow(*args, **keywords):
    socket.getaddrinfo = blocked
    return getaddrinfo(*args, **keywords)

def blocked(*args, **keywords):
    open("blocked", "w").close()
    time.sleep(100)

socket.getaddrinfo = slow
""",
        timers={"pi.delivery.RESEND": 60, "pi.link.LOOK_UP": 0.0},
    )
    until(lambda: (tmp_path / "blocked").exists())
    client.stop(signal.SIGKILL)
    assert client.out.splitlines()[0] in (tmp_path / "spool").read_text()
