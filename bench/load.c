/* The load for bench/run.py: one thread, epoll, no library.

     load plain    PORT CLIENTS     SECONDS TASKS          one connection a task
     load extended PORT CONNECTIONS SECONDS TASKS WINDOW   connections stay open, WINDOW requests in flight on each
     load fill     DIRECTORY TASKS                         TASKS files as a uWSGI server would have left them

   plain and extended stop at TASKS tasks or after SECONDS (0: no such limit), wait for what is in flight and print one line
   of JSON. A reply is "ok" (ff 00 00 01), "refused" (ff 00 00 00) or an error, as is a connection that fails or ends early.

   Short connections and ports: every close here is an ordinary one, as any client would do it, so each leaves a TIME_WAIT for
   a minute on one side or the other. The connections therefore start from SOURCES addresses of 127/8 in turn, and the port is
   chosen at connect (IP_BIND_ADDRESS_NO_PORT), when it must be free only towards this one destination: about 28,000 for each
   source address, 1.8 million in all, with the usual ip_local_port_range. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SOURCES 64
#define STALL_MS 10000 /* nothing has happened for so long: give up, what is in flight counts as errors */
#define EVENTS 256

static struct sockaddr_in server;
static int epfd;
static uint64_t started, stop_at, last_done; /* ns, monotonic */
static uint64_t limit;                       /* tasks, UINT64_MAX for none */
static uint64_t issued, ok, refused, errors;

static uint32_t *latency; /* in 0.1 us */
static size_t latencies, latency_room;

static uint8_t packet[256];
static size_t packet_len;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void put_string(const char *s) {
    size_t n = strlen(s);
    packet[packet_len++] = n & 255;
    packet[packet_len++] = n >> 8;
    memcpy(packet + packet_len, s, n);
    packet_len += n;
}

static void make_packet(int modifier2) {
    const char *task[] = {"Name", "Serena", "System", "Linux", "Tizio", "Caio"};
    packet_len = 4;
    for (size_t i = 0; i < sizeof task / sizeof *task; i++) put_string(task[i]);
    packet[0] = 17;
    packet[1] = (packet_len - 4) & 255;
    packet[2] = (packet_len - 4) >> 8;
    packet[3] = (uint8_t)modifier2;
}

static void count(uint8_t modifier1, uint8_t modifier2, uint64_t sent_at) {
    last_done = now();
    if (modifier1 != 255 || modifier2 > 1) errors++;
    else if (modifier2 == 0) refused++;
    else {
        ok++;
        if (latencies == latency_room) {
            latency_room = latency_room ? latency_room * 2 : 65536;
            if (!(latency = realloc(latency, latency_room * sizeof *latency))) die("realloc");
        }
        latency[latencies++] = (uint32_t)((last_done - sent_at) / 100);
    }
}

static int may_start(void) {
    return issued < limit && now() < stop_at && !(ok == 0 && errors > 1000);
}

static void watch(int op, int fd, uint32_t events, void *who) {
    struct epoll_event e = {.events = events, .data.ptr = who};
    if (epoll_ctl(epfd, op, fd, &e)) die("epoll_ctl");
}

static int open_socket(int flags) {
    static unsigned turn;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    struct sockaddr_in source = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000101u + turn++ % SOURCES)};
    if (fd < 0) die("socket");
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&source, sizeof source)) die("bind");
    return fd;
}

/* ---- plain ---- */

struct client {
    int fd;
    size_t sent, got;
    uint8_t reply[4];
    uint64_t started;
};

static int clients_busy;

static void client_send(struct client *c) {
    ssize_t n = send(c->fd, packet + c->sent, packet_len - c->sent, MSG_NOSIGNAL);
    if (n > 0) c->sent += (size_t)n;
}

static void client_start(struct client *c) {
    clients_busy++;
    issued++;
    c->sent = c->got = 0;
    c->started = now();
    c->fd = open_socket(SOCK_NONBLOCK);
    if (connect(c->fd, (struct sockaddr *)&server, sizeof server) == 0 || errno == EINPROGRESS)
        client_send(c); /* on loopback the connection is usually there already */
    if (c->sent == packet_len) watch(EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
    else watch(EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET, c);
}

static void client_end(struct client *c) {
    if (c->got == 4 && c->reply[1] == 0 && c->reply[2] == 0) count(c->reply[0], c->reply[3], c->started);
    else errors++;
    close(c->fd);
    clients_busy--;
    if (may_start()) client_start(c);
}

static void client_ready(struct client *c) {
    if (c->sent < packet_len) client_send(c);
    ssize_t n = recv(c->fd, c->reply + c->got, 4 - c->got, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) c->got += (size_t)n;
    if (n <= 0 || c->got == 4) client_end(c);
}

static void plain(int clients) {
    struct client *all = calloc((size_t)clients, sizeof *all);
    struct epoll_event events[EVENTS];
    for (int i = 0; i < clients && may_start(); i++) client_start(&all[i]);
    while (clients_busy) {
        int n = epoll_wait(epfd, events, EVENTS, STALL_MS);
        if (n == 0) break;
        for (int i = 0; i < n; i++) client_ready(events[i].data.ptr);
    }
    errors += (uint64_t)clients_busy;
}

/* ---- extended ---- */

struct conn {
    int fd;
    int wants_out;
    size_t part;              /* bytes of the last packet that have been sent, 0 when it went whole */
    uint64_t asked, answered; /* the requests in flight lie between */
    uint64_t *sent_at;        /* ring of `window` */
    uint8_t header[4];
    size_t header_got, skip;
};

static size_t window;
static uint8_t *stream; /* window + 1 packets */
static int conns_open;

static void conn_close(struct conn *c) {
    errors += c->asked - c->answered;
    close(c->fd);
    c->fd = -1;
    conns_open--;
}

static void conn_send(struct conn *c) {
    size_t room = may_start() ? window - (c->asked - c->answered) : 0;
    if (room > limit - issued) room = limit - issued;
    size_t want = (c->part ? packet_len - c->part : 0) + room * packet_len;
    ssize_t n = want ? send(c->fd, stream + c->part, want, MSG_NOSIGNAL) : 0;
    if (n < 0 && errno != EAGAIN) return conn_close(c);
    if (n > 0) {
        size_t total = c->part + (size_t)n;
        size_t fresh = (total + packet_len - 1) / packet_len - (c->part ? 1 : 0);
        uint64_t t = now();
        for (size_t i = 0; i < fresh; i++) c->sent_at[c->asked++ % window] = t;
        issued += fresh;
        c->part = total % packet_len;
    }
    int wants_out = n < (ssize_t)want;
    if (wants_out != c->wants_out) watch(EPOLL_CTL_MOD, c->fd, EPOLLIN | (wants_out ? EPOLLOUT : 0), c);
    c->wants_out = wants_out;
}

static void conn_parse(struct conn *c, const uint8_t *p, size_t n) {
    while (n) {
        if (c->skip) {
            size_t k = c->skip < n ? c->skip : n;
            c->skip -= k, p += k, n -= k;
            continue;
        }
        c->header[c->header_got++] = *p++, n--;
        if (c->header_got < 4) continue;
        c->header_got = 0;
        c->skip = c->header[1] | (size_t)c->header[2] << 8;
        if (c->answered == c->asked) {
            errors++; /* an answer to nothing */
            continue;
        }
        count(c->header[0], c->header[3], c->sent_at[c->answered++ % window]);
    }
}

static void conn_ready(struct conn *c, uint32_t events) {
    static uint8_t buffer[1 << 16];
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return conn_close(c);
        if (n > 0) conn_parse(c, buffer, (size_t)n);
    }
    conn_send(c);
    if (c->fd >= 0 && c->asked == c->answered && !may_start()) conn_close(c);
}

static void extended(int conns) {
    struct conn *all = calloc((size_t)conns, sizeof *all);
    struct epoll_event events[EVENTS];
    stream = malloc((window + 1) * packet_len);
    for (size_t i = 0; i <= window; i++) memcpy(stream + i * packet_len, packet, packet_len);
    for (int i = 0; i < conns; i++) {
        struct conn *c = &all[i];
        c->sent_at = calloc(window, sizeof *c->sent_at);
        c->fd = open_socket(0);
        if (connect(c->fd, (struct sockaddr *)&server, sizeof server)) die("connect");
        if (fcntl(c->fd, F_SETFL, O_NONBLOCK)) die("fcntl");
        watch(EPOLL_CTL_ADD, c->fd, EPOLLIN, c);
        conns_open++;
    }
    started = now();
    for (int i = 0; i < conns; i++) conn_send(&all[i]);
    while (conns_open) {
        int n = epoll_wait(epfd, events, EVENTS, STALL_MS);
        if (n == 0) break;
        for (int i = 0; i < n; i++) conn_ready(events[i].data.ptr, events[i].events);
    }
    for (int i = 0; i < conns; i++)
        if (all[i].fd >= 0) conn_close(&all[i]);
}

/* ---- fill ---- */

static void fill(const char *directory, uint64_t tasks) {
    char name[160];
    int dir = open(directory, O_RDONLY | O_DIRECTORY);
    if (dir < 0) die(directory);
    for (uint64_t i = 1; i <= tasks; i++) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        snprintf(name, sizeof name, "uwsgi_spoolfile_on_bench_%d_%llu_%d_%lld_%ld", (int)getpid(), (unsigned long long)i,
                 rand(), (long long)t.tv_sec, t.tv_nsec / 1000);
        int fd = openat(dir, name, O_CREAT | O_EXCL | O_WRONLY, 0600);
        if (fd < 0 || write(fd, packet, packet_len) != (ssize_t)packet_len || close(fd)) die(name);
    }
    ok = issued = tasks;
    last_done = now();
}

/* ---- report ---- */

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double share) {
    return latencies ? latency[(size_t)(share * (double)(latencies - 1))] / 10.0 : 0.0;
}

static void report(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    double cpu = (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) + (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
    double seconds = last_done > started ? (double)(last_done - started) / 1e9 : 0.0;
    if (latencies) qsort(latency, latencies, sizeof *latency, by_value);
    printf("{\"tasks\": %llu, \"seconds\": %.6f, \"ok\": %llu, \"refused\": %llu, \"errors\": %llu, \"p50_us\": %.1f, "
           "\"p99_us\": %.1f, \"client_cpu_s\": %.3f}\n",
           (unsigned long long)issued, seconds, (unsigned long long)ok, (unsigned long long)refused, (unsigned long long)errors,
           percentile(0.50), percentile(0.99), cpu);
}

int main(int argc, char **argv) {
    int is_fill = argc == 4 && !strcmp(argv[1], "fill");
    int is_plain = argc == 6 && !strcmp(argv[1], "plain");
    int is_extended = argc == 7 && !strcmp(argv[1], "extended");
    if (!is_fill && !is_plain && !is_extended) {
        fprintf(stderr, "usage: load plain PORT CLIENTS SECONDS TASKS | extended PORT CONNECTIONS SECONDS TASKS WINDOW"
                        " | fill DIRECTORY TASKS\n");
        return 2;
    }
    make_packet(is_extended ? 1 : 0);
    started = last_done = now();
    if (is_fill) {
        fill(argv[2], strtoull(argv[3], NULL, 10));
    } else {
        double seconds = atof(argv[4]);
        server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2])),
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        limit = strtoull(argv[5], NULL, 10);
        if (!limit) limit = UINT64_MAX;
        stop_at = seconds > 0 ? started + (uint64_t)(seconds * 1e9) : UINT64_MAX;
        epfd = epoll_create1(EPOLL_CLOEXEC);
        if (is_plain) plain(atoi(argv[3]));
        else window = strtoull(argv[6], NULL, 10), extended(atoi(argv[3]));
    }
    report();
    return 0;
}
