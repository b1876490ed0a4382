/* Targets and a rate in, probes, replies and CPU time out: the least that a program can do which times every probe
 * by the kernel's own stamps at both ends. It is what the engine is measured against, and makes the same calls:
 *
 *   one raw ICMP socket; sendmmsg and recvmmsg in batches of 64; SO_TIMESTAMPING with software stamps for send
 *   (error queue, OPT_ID | OPT_TSONLY, the id chosen with SCM_TS_OPT_ID where the kernel has it) and receive; every
 *   reply is matched by token and sequence number; the round-trip time is kernel receive - kernel send.
 *
 *   cloop saturated ADDRESS PROBES                     send 64, drain both queues, repeat
 *   cloop paced ADDRESS TARGETS RATE SECONDS TICK_MS [DRAIN_MS]
 *                                                      TARGETS addresses from ADDRESS on, RATE probes/s each, evenly
 *                                                      spaced; wakes every TICK_MS, sends what is due, and drains
 *                                                      when 1,024 probes were sent or DRAIN_MS have passed since it
 *                                                      last did (default: at every tick)
 *
 * Prints one JSON object: probes, received (with both stamps), rtt_mean_ns, cpu_s (user + system), wall_s, ids.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define IP_HEADER 20
#define PACKET 64 /* ICMP header and payload: the agent's default size */
#define CONTROL 256
#define DRAIN_AFTER 1024 /* probes: more replies than this are not left unread */
#define RING (1u << 17) /* probes remembered: more than are ever in flight */
#define SCM_TS_OPT_ID_NUMBER 81
#define ICMP_FILTER_OPTION 1

struct probe { /* the payload begins with it */
    uint64_t token;
    uint32_t flow;
    uint32_t sequence;
};

struct slot {
    int64_t sent_ns;
    int64_t received_ns;
    uint32_t sequence;
};

static struct slot ring[RING];
static unsigned char out[BATCH][PACKET], in[BATCH][IP_HEADER + 40 + PACKET];
static char out_control[BATCH][CMSG_SPACE(sizeof(uint32_t))], in_control[BATCH][CONTROL];
static struct mmsghdr out_messages[BATCH], in_messages[BATCH];
static struct iovec out_vectors[BATCH], in_vectors[BATCH];
static struct sockaddr_in out_names[BATCH];
static uint64_t token;
static uint16_t identifier;
static int own_ids = 1;
static uint64_t sent, received, rtt_sum;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint16_t checksum(const unsigned char *data, size_t length) {
    uint32_t sum = 0;
    for (size_t i = 0; i < length; i += 2)
        sum += (uint32_t)data[i] << 8 | data[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons(~sum & 0xffff);
}

static int open_socket(void) {
    int fd = socket(AF_INET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_ICMP);
    if (fd < 0)
        die("socket");
    int stamps = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
                 SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY;
    int buffer = 16 << 20, on = 1;
    uint32_t filter = ~(1u << ICMP_ECHOREPLY | 1u << ICMP_DEST_UNREACH | 1u << ICMP_TIME_EXCEEDED);
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer) ||
        setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &on, sizeof on) ||
        setsockopt(fd, SOL_RAW, ICMP_FILTER_OPTION, &filter, sizeof filter) ||
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof stamps))
        die("setsockopt");
    /* The first socket that asks for receive stamps turns them on in a kernel worker, a moment later. */
    nanosleep(&(struct timespec){0, 20000000}, NULL);
    return fd;
}

static void prepare(void) {
    if (getentropy(&token, sizeof token))
        die("getentropy");
    identifier = (uint16_t)getpid();
    for (int i = 0; i < BATCH; i++) {
        out_vectors[i] = (struct iovec){out[i], PACKET};
        in_vectors[i] = (struct iovec){in[i], sizeof in[i]};
        struct cmsghdr *id = (struct cmsghdr *)out_control[i];
        id->cmsg_len = CMSG_LEN(sizeof(uint32_t));
        id->cmsg_level = SOL_SOCKET;
        id->cmsg_type = SCM_TS_OPT_ID_NUMBER;
        out_names[i].sin_family = AF_INET;
        out_messages[i].msg_hdr = (struct msghdr){.msg_name = &out_names[i],
                                                  .msg_namelen = sizeof out_names[i],
                                                  .msg_iov = &out_vectors[i],
                                                  .msg_iovlen = 1,
                                                  .msg_control = out_control[i],
                                                  .msg_controllen = sizeof out_control[i]};
        in_messages[i].msg_hdr = (struct msghdr){
            .msg_iov = &in_vectors[i], .msg_iovlen = 1, .msg_control = in_control[i], .msg_controllen = CONTROL};
    }
}

static void fill(int row, uint32_t address, uint32_t flow, uint32_t sequence) {
    struct icmphdr *header = (struct icmphdr *)out[row];
    struct probe probe = {token, flow, sequence};
    memcpy(out[row] + sizeof *header, &probe, sizeof probe);
    *header = (struct icmphdr){.type = ICMP_ECHO};
    header->un.echo.id = identifier;
    header->un.echo.sequence = htons((uint16_t)sequence);
    header->checksum = checksum(out[row], PACKET);
    out_names[row].sin_addr.s_addr = htonl(address);
    memcpy(CMSG_DATA((struct cmsghdr *)out_control[row]), &sequence, sizeof sequence);
    ring[sequence % RING] = (struct slot){.sequence = sequence};
}

static void transmit(int fd, int count) {
    for (int done = 0; done < count;) {
        int n = sendmmsg(fd, out_messages + done, (unsigned)(count - done), 0);
        if (n > 0) {
            done += n;
        } else if (errno == EINVAL && own_ids && sent == 0 && done == 0) {
            own_ids = 0; /* before Linux 6.13 the kernel counts by itself, which is the same while no send fails */
            for (int i = 0; i < BATCH; i++)
                out_messages[i].msg_hdr.msg_controllen = 0;
        } else if (errno == EAGAIN || errno == ENOBUFS) {
            struct pollfd p = {fd, POLLOUT, 0};
            poll(&p, 1, 1);
        } else {
            die("sendmmsg");
        }
    }
    sent += (uint64_t)count;
}

static void complete(struct slot *slot) {
    if (slot->sent_ns && slot->received_ns) {
        received++;
        rtt_sum += (uint64_t)(slot->received_ns - slot->sent_ns);
    }
}

static void on_message(struct msghdr *message, unsigned length, const unsigned char *data, int errors) {
    int64_t stamp = 0;
    uint32_t id = 0;
    int has_id = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_TIMESTAMPING) {
            const struct timespec *t = (const struct timespec *)CMSG_DATA(c);
            stamp = (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
        } else if (errors && c->cmsg_level == SOL_IP && c->cmsg_type == IP_RECVERR) {
            const struct sock_extended_err *e = (const struct sock_extended_err *)CMSG_DATA(c);
            has_id = e->ee_origin == SO_EE_ORIGIN_TIMESTAMPING && e->ee_info == SCM_TSTAMP_SND;
            id = e->ee_data;
        }
    }
    if (errors) {
        struct slot *slot = &ring[id % RING];
        if (has_id && slot->sequence == id && !slot->sent_ns) {
            slot->sent_ns = stamp;
            complete(slot);
        }
        return;
    }
    const struct icmphdr *header = (const struct icmphdr *)(data + (data[0] & 15) * 4);
    struct probe probe;
    if (length < IP_HEADER + PACKET || header->type != ICMP_ECHOREPLY || header->un.echo.id != identifier)
        return;
    memcpy(&probe, header + 1, sizeof probe);
    struct slot *slot = &ring[probe.sequence % RING];
    if (probe.token == token && slot->sequence == probe.sequence && !slot->received_ns) {
        slot->received_ns = stamp;
        complete(slot);
    }
}

static void drain(int fd, int flags) {
    for (;;) {
        int n = recvmmsg(fd, in_messages, BATCH, MSG_DONTWAIT | flags, NULL);
        for (int i = 0; i < n; i++) {
            on_message(&in_messages[i].msg_hdr, in_messages[i].msg_len, in[i], flags == MSG_ERRQUEUE);
            in_messages[i].msg_hdr.msg_controllen = CONTROL;
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            die("recvmmsg");
        if (n < BATCH)
            return;
    }
}

static void drain_both(int fd) {
    drain(fd, 0);
    drain(fd, MSG_ERRQUEUE);
}

static void finish(int fd) {
    int64_t deadline = now(CLOCK_MONOTONIC) + 1000000000;
    for (;;) {
        drain_both(fd);
        if (received == sent || now(CLOCK_MONOTONIC) > deadline)
            return;
        struct pollfd p = {fd, POLLIN, 0};
        poll(&p, 1, 10);
    }
}

static void saturated(int fd, uint32_t address, uint64_t probes) {
    for (uint64_t next = 0; next < probes;) {
        int n = 0;
        for (; n < BATCH && next < probes; n++, next++)
            fill(n, address, 0, (uint32_t)next);
        transmit(fd, n);
        drain_both(fd);
    }
}

static void paced(int fd, uint32_t address, uint32_t targets, double rate, double seconds, double tick_ms,
                  double drain_ms) {
    uint64_t probes = (uint64_t)(targets * rate * seconds), next = 0;
    double gap = 1e9 / (targets * rate); /* between any two probes */
    int64_t start = now(CLOCK_MONOTONIC), drained = start;
    uint64_t unread = 0;
    for (int64_t tick = 1; next < probes; tick++) {
        int64_t wake = start + (int64_t)((double)tick * tick_ms * 1e6);
        struct timespec t = {wake / 1000000000, wake % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
            ;
        int64_t woken = now(CLOCK_MONOTONIC);
        uint64_t due = (uint64_t)((double)(woken - start) / gap);
        if (due > probes)
            due = probes;
        while (next < due) {
            int n = 0;
            for (; n < BATCH && next < due; n++, next++)
                fill(n, address + (uint32_t)(next % targets), (uint32_t)(next % targets), (uint32_t)next);
            transmit(fd, n);
            unread += (uint64_t)n;
        }
        if (unread >= DRAIN_AFTER || (double)(woken - drained) >= drain_ms * 1e6) {
            drain_both(fd);
            drained = woken;
            unread = 0;
        }
    }
}

int main(int argc, char **argv) {
    struct in_addr first;
    int is_paced = (argc == 7 || argc == 8) && strcmp(argv[1], "paced") == 0;
    if (!is_paced && !(argc == 4 && strcmp(argv[1], "saturated") == 0)) {
        fprintf(stderr, "usage: cloop saturated ADDRESS PROBES | paced ADDRESS TARGETS RATE SECONDS TICK_MS "
                        "[DRAIN_MS]\n");
        return 2;
    }
    if (inet_pton(AF_INET, argv[2], &first) != 1) {
        fprintf(stderr, "cloop: %s is not an IPv4 address\n", argv[2]);
        return 2;
    }
    int64_t start = now(CLOCK_MONOTONIC);
    int fd = open_socket();
    prepare();
    if (is_paced)
        paced(fd, ntohl(first.s_addr), (uint32_t)atoi(argv[3]), atof(argv[4]), atof(argv[5]), atof(argv[6]),
              argc == 8 ? atof(argv[7]) : 0);
    else
        saturated(fd, ntohl(first.s_addr), strtoull(argv[3], NULL, 10));
    finish(fd);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"probes\": %llu, \"received\": %llu, \"rtt_mean_ns\": %llu, \"cpu_s\": %.6f, \"wall_s\": %.6f, "
           "\"ids\": \"%s\"}\n",
           (unsigned long long)sent, (unsigned long long)received,
           (unsigned long long)(received ? rtt_sum / received : 0), cpu,
           (double)(now(CLOCK_MONOTONIC) - start) / 1e9, own_ids ? "chosen" : "kernel");
    return 0;
}
