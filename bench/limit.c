/* limit PORT LOG: the least that a receiver has to do: recvmmsg, and one write a batch. Nothing is checked. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BATCH = 1024, LIMIT = 256 /* bytes a datagram */ };

int main(int argc, char **argv) {
    static char text[BATCH][LIMIT], lines[BATCH * (LIMIT + 1)];
    static struct iovec part[BATCH];
    static struct mmsghdr batch[BATCH];
    if (argc != 3)
        return fputs("usage: limit PORT LOG\n", stderr), 2;
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1])),
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int k = 0; k < BATCH; k++) {
        part[k] = (struct iovec){text[k], LIMIT};
        batch[k].msg_hdr = (struct msghdr){.msg_iov = &part[k], .msg_iovlen = 1};
    }
    int size = 4 << 20, sock = socket(AF_INET, SOCK_DGRAM, 0);
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    int log = open(argv[2], O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (log < 0 || bind(sock, (struct sockaddr *)&host, sizeof host))
        return perror("limit"), 1;
    for (;;) {
        int n = recvmmsg(sock, batch, BATCH, MSG_WAITFORONE, NULL);
        char *end = lines;
        for (int k = 0; k < n; k++) {
            end = mempcpy(end, text[k], batch[k].msg_len);
            *end++ = '\n';
        }
        if (n < 0 || write(log, lines, end - lines) < 0)
            return perror("limit"), 1;
    }
}
