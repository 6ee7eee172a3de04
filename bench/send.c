/* send PORT COUNT RATE SENDERS: send COUNT readings to 127.0.0.1:PORT, RATE a second; 0 is as fast as it
 * goes. They come from so many addresses in turn: 127.0.0.1 and those that follow.
 *
 * Paced in bursts of a millisecond. A sender that falls behind goes on late and never bunches up: what a
 * receiver loses is then its own loss. The time it took, in seconds, is on stdout.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { READINGS = 16384, BURST = 1024, TICK = 1000000 /* ns */ };

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(long long due) {
    struct timespec t = {due / 1000000000, due % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

int main(int argc, char **argv) {
    static char text[READINGS][16];
    static struct iovec part[READINGS];
    static union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(struct in_pktinfo))];
    } source[READINGS];
    static struct mmsghdr burst[READINGS + BURST];
    if (argc != 5)
        return fputs("usage: send PORT COUNT RATE SENDERS\n", stderr), 2;
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                                 .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    long count = atol(argv[2]), rate = atol(argv[3]), senders = atol(argv[4]);

    double humidity = 55, temperature = 21.4; /* a slow random walk, as a sensor's */
    for (int k = 0; k < READINGS; k++) {
        humidity += (rand() % 3 - 1) / 10.0;
        temperature += (rand() % 3 - 1) / 10.0;
        part[k].iov_base = text[k];
        part[k].iov_len = sprintf(text[k], "%.1f,%.1f", humidity, temperature);
        source[k].header = (struct cmsghdr){.cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO,
                                            .cmsg_len = CMSG_LEN(sizeof(struct in_pktinfo))};
        struct in_pktinfo *info = (struct in_pktinfo *)CMSG_DATA(&source[k].header);
        info->ipi_spec_dst.s_addr = htonl(INADDR_LOOPBACK + k % senders);
    }
    for (int k = 0; k < READINGS + BURST; k++) { /* past the end the readings start again */
        burst[k].msg_hdr = (struct msghdr){.msg_iov = &part[k % READINGS], .msg_iovlen = 1};
        if (senders > 1)
            burst[k].msg_hdr.msg_control = &source[k % READINGS],
            burst[k].msg_hdr.msg_controllen = sizeof source[0];
    }

    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    if (sock < 0 || connect(sock, (struct sockaddr *)&server, sizeof server))
        return perror("send: connect"), 1;
    long long start = now(), due = start;
    for (long sent = 0; sent < count;) {
        long size = rate ? (sent + rate / 1000 > count ? count - sent : rate / 1000) : count - sent;
        for (long end = sent + size; sent < end;) {
            int n = sendmmsg(sock, burst + sent % READINGS, end - sent < BURST ? end - sent : BURST, 0);
            if (n < 0)
                return perror("send"), 1;
            sent += n;
        }
        if (rate) {
            sleep_until(due += TICK);
            if (now() > due + TICK)
                due = now();
        }
    }
    printf("%.6f\n", (now() - start) / 1e9);
    return 0;
}
