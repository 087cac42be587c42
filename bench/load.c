/* The load for bench/run.py: one thread, epoll, no library.

     load plain    PORT CLIENTS     SECONDS TASKS          one connection a task
     load extended PORT CONNECTIONS SECONDS TASKS WINDOW   connections stay open, WINDOW requests in flight on each
          and with one more argument NODE                  the same, each task for that node (`spool_node`)
     load nats      as extended, without NODE              publishes into a JetStream stream that listens to SUBJECT
     load beanstalk as extended, without NODE              puts into a beanstalkd
     load fill     DIRECTORY TASKS                         TASKS files as a uWSGI server would have left them

   All but fill stop at TASKS tasks or after SECONDS (0: no such limit), wait for what is in flight and print one line
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
#define SUBJECT "bench"
#define INBOXES 26 /* of NATS: one letter each, so that all packets have the same length */

static struct sockaddr_in server;
static int epfd;
static uint64_t started, stop_at, last_done; /* ns, monotonic */
static uint64_t limit;                       /* tasks, UINT64_MAX for none */
static uint64_t issued, ok, refused, errors;

static uint32_t *latency; /* in 0.1 us */
static size_t latencies, latency_room;

static uint8_t packet[512];
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

static void make_packet(int modifier2, const char *node) {
    const char *task[] = {"Name", "Serena", "System", "Linux", "Tizio", "Caio"};
    packet_len = 4;
    for (size_t i = 0; i < sizeof task / sizeof *task; i++) put_string(task[i]);
    if (node) put_string("spool_node"), put_string(node);
    packet[0] = 17;
    packet[1] = (packet_len - 4) & 255;
    packet[2] = (packet_len - 4) >> 8;
    packet[3] = (uint8_t)modifier2;
}

/* The same task as the payload of another protocol's request; a '%' of `head` is the letter of the connection. */
static void wrap_packet(const char *head, char letter) {
    uint8_t payload[sizeof packet];
    size_t n, size = packet_len;
    memcpy(payload, packet, size);
    n = (size_t)snprintf((char *)packet, sizeof packet, "%s%zu\r\n", head, size);
    for (size_t i = 0; i < n; i++)
        if (packet[i] == '%') packet[i] = (uint8_t)letter;
    memcpy(packet + n, payload, size);
    memcpy(packet + n + size, "\r\n", 2);
    packet_len = n + size + 2;
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

/* ---- extended, nats, beanstalk: requests in flight on connections that stay open ---- */

struct conn {
    int fd;
    int wants_out;
    size_t part;              /* bytes of the last packet that have been sent, 0 when it went whole */
    uint64_t asked, answered; /* the requests in flight lie between */
    uint64_t *sent_at;        /* ring of `window` */
    uint8_t *stream;          /* window + 1 packets */
    uint8_t header[4];
    size_t header_got, skip;
    char line[256]; /* of a protocol that has lines: its beginning, without \r\n */
    size_t line_got;
    int payload; /* the next line is what NATS announced with MSG */
};

static size_t window;
static int conns_open;
static void (*parse)(struct conn *c, const uint8_t *p, size_t n);

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
    ssize_t n = want ? send(c->fd, c->stream + c->part, want, MSG_NOSIGNAL) : 0;
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

static void answered(struct conn *c, uint8_t modifier1, uint8_t modifier2) {
    if (c->answered == c->asked) errors++; /* an answer to nothing */
    else count(modifier1, modifier2, c->sent_at[c->answered++ % window]);
}

static void parse_extended(struct conn *c, const uint8_t *p, size_t n) {
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
        answered(c, c->header[0], c->header[3]);
    }
}

/* MSG SUBJECT SID SIZE, then {"stream":"...", "seq":N} or {"error":...}, in the order of publishing. What else comes is no
   answer: PING (a run is over before the server minds that it gets none), +OK, -ERR (then nothing follows, and we stall). */
static void nats_line(struct conn *c) {
    if (c->payload) answered(c, 255, strncmp(c->line, "{\"stream\"", 9) ? 0 : 1);
    c->payload = !c->payload && (!strncmp(c->line, "MSG ", 4) || !strncmp(c->line, "HMSG ", 5));
}

static void beanstalk_line(struct conn *c) {
    answered(c, 255, strncmp(c->line, "INSERTED ", 9) ? 0 : 1);
}

static void (*line_done)(struct conn *c);

static void parse_lines(struct conn *c, const uint8_t *p, size_t n) {
    for (; n; p++, n--) {
        if (*p == '\n') {
            c->line[c->line_got] = 0;
            c->line_got = 0;
            line_done(c);
        } else if (*p != '\r' && c->line_got < sizeof c->line - 1) c->line[c->line_got++] = (char)*p;
    }
}

/* Introduces a connection to NATS, and waits until the server has said that it knows the inbox. */
static void greet_nats(struct conn *c, char letter) {
    char hello[128], got[8192];
    size_t n = 0;
    snprintf(hello, sizeof hello, "CONNECT {\"verbose\":false}\r\nSUB inbox.%c 1\r\nPING\r\n", letter);
    if (send(c->fd, hello, strlen(hello), MSG_NOSIGNAL) != (ssize_t)strlen(hello)) die("send");
    do {
        ssize_t k = recv(c->fd, got + n, sizeof got - 1 - n, 0);
        if (k <= 0) die("no PONG from NATS");
        got[n += (size_t)k] = 0;
    } while (!strstr(got, "PONG\r\n"));
}

static void conn_ready(struct conn *c, uint32_t events) {
    static uint8_t buffer[1 << 16];
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno != EAGAIN)) return conn_close(c);
        if (n > 0) parse(c, buffer, (size_t)n);
    }
    conn_send(c);
    if (c->fd >= 0 && c->asked == c->answered && !may_start()) conn_close(c);
}

static void make_stream(struct conn *c, const char *dialect, const char *node, char letter) {
    make_packet(1, node);
    if (!strcmp(dialect, "nats")) wrap_packet("PUB " SUBJECT " inbox.% ", letter);
    if (!strcmp(dialect, "beanstalk")) wrap_packet("put 0 0 60 ", letter);
    c->stream = malloc((window + 1) * packet_len);
    for (size_t i = 0; i <= window; i++) memcpy(c->stream + i * packet_len, packet, packet_len);
}

static void pipelined(const char *dialect, int conns, const char *node) {
    struct conn *all = calloc((size_t)conns, sizeof *all);
    struct epoll_event events[EVENTS];
    int nats = !strcmp(dialect, "nats");
    parse = strcmp(dialect, "extended") ? parse_lines : parse_extended;
    line_done = nats ? nats_line : beanstalk_line;
    for (int i = 0; i < conns; i++) {
        struct conn *c = &all[i];
        char letter = (char)('a' + i % INBOXES);
        make_stream(c, dialect, node, letter);
        c->sent_at = calloc(window, sizeof *c->sent_at);
        c->fd = open_socket(0);
        if (connect(c->fd, (struct sockaddr *)&server, sizeof server)) die("connect");
        if (nats) greet_nats(c, letter);
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

static int usage(void) {
    fprintf(stderr, "usage: load plain PORT CLIENTS SECONDS TASKS | extended PORT CONNECTIONS SECONDS TASKS WINDOW [NODE]"
                    " | nats|beanstalk PORT CONNECTIONS SECONDS TASKS WINDOW | fill DIRECTORY TASKS\n");
    return 2;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int is_fill = argc == 4 && !strcmp(what, "fill");
    int is_plain = argc == 6 && !strcmp(what, "plain");
    int is_extended = (argc == 7 || argc == 8) && !strcmp(what, "extended");
    int is_other = argc == 7 && (!strcmp(what, "nats") || !strcmp(what, "beanstalk"));
    if (!is_fill && !is_plain && !is_extended && !is_other) return usage();
    make_packet(0, NULL);
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
        else window = strtoull(argv[6], NULL, 10), pipelined(what, atoi(argv[3]), argc == 8 ? argv[7] : NULL);
    }
    report();
    return 0;
}
