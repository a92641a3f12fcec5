// A small load generator for whole network stacks, and the servers that it talks to. What moves bulk data is iperf3.
//
//   probe serve ADDR PORT            echoes TCP streams and UDP datagrams
//   probe name-server ADDR PORT      answers every DNS question with the same address
//   probe rr    ADDR PORT SECONDS N  one connection: a request of N bytes, its answer, the next request
//   probe crr   ADDR PORT SECONDS N  N at a time: connect, one request and answer, close
//   probe udprr ADDR PORT SECONDS N  datagrams, N under way
//   probe dns   ADDR PORT SECONDS N  DNS questions for names never asked before, N under way
//   probe dnscached ADDR PORT SECONDS N  DNS questions for the same few names again and again, N under way
//   probe hold  ADDR PORT N          opens N connections, says so, waits for a line on standard input, asks on each again
//
// Servers print "ready"; clients end with one line of JSON. Build: cc -O2 -o probe probe.c

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
  MESSAGE_BYTES = 64,
  EVENTS = 256,
  DNS_HEADER_BYTES = 12,
  DNS_LARGEST = 512,
  // Messages for one system call where there are so many.
  BATCH = 32,
  // Names that are asked for again and again.
  KNOWN_NAMES = 64,
  IDS = 65536,
  // An answer that takes longer is lost; the window is filled anew.
  LOST_MS = 200,
  HOLD_LIMIT_SEC = 5,
  // A stack that refuses this many flows one after the other has no more to give.
  HOLD_FAILURES = 8,
};

static struct sockaddr_in peer;

static void fail(const char *what) {
  fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// Times taken, in microseconds.
static double *samples;
static size_t sample_count, sample_room;

static void sample(double seconds) {
  if (sample_count == sample_room) {
    sample_room = sample_room == 0 ? 65536 : sample_room * 2;
    samples = realloc(samples, sample_room * sizeof *samples);
    if (samples == NULL) fail("realloc");
  }
  samples[sample_count++] = seconds * 1e6;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double quantile(double q) {
  if (sample_count == 0) return 0;
  return samples[(size_t)((double)(sample_count - 1) * q)];
}

// The end of every client: a rate, what went wrong, and how long one took.
static void report(double seconds, const char *wrong, long wrongs) {
  qsort(samples, sample_count, sizeof *samples, ascending);
  printf("{\"perSecond\":%.1f,\"%s\":%ld,\"p50Us\":%.1f,\"p99Us\":%.1f}\n", (double)sample_count / seconds, wrong, wrongs,
         quantile(0.5), quantile(0.99));
}

static void no_delay(int fd) {
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void many_files(void) {
  struct rlimit most;
  getrlimit(RLIMIT_NOFILE, &most);
  struct rlimit wanted = {most.rlim_max, most.rlim_max};
  setrlimit(RLIMIT_NOFILE, &wanted);
}

static int listen_on(int type) {
  int fd = socket(AF_INET, type | SOCK_NONBLOCK, 0), on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd, (void *)&peer, sizeof peer) < 0) fail("bind");
  if (type == SOCK_STREAM && listen(fd, 4096) < 0) fail("listen");
  return fd;
}

static void watch(int poller, int fd, uint32_t what, uint64_t tag, int how) {
  struct epoll_event event = {.events = what, .data.u64 = tag};
  if (epoll_ctl(poller, how, fd, &event) < 0) fail("epoll_ctl");
}

static void say_ready(void) {
  puts("ready");
  fflush(stdout);
}

static void echo_datagrams(int fd) {
  static uint8_t data[65536];
  struct sockaddr_in from;
  socklen_t size = sizeof from;
  ssize_t got;
  while ((got = recvfrom(fd, data, sizeof data, 0, (void *)&from, &size)) >= 0) {
    sendto(fd, data, (size_t)got, 0, (void *)&from, size);
    size = sizeof from;
  }
}

static void echo_stream(int fd) {
  static uint8_t data[65536];
  ssize_t got = read(fd, data, sizeof data);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0 || write(fd, data, (size_t)got) != got) close(fd);
}

static void serve(void) {
  int streams = listen_on(SOCK_STREAM), datagrams = listen_on(SOCK_DGRAM), poller = epoll_create1(0);
  many_files();
  watch(poller, streams, EPOLLIN, (uint64_t)streams, EPOLL_CTL_ADD);
  watch(poller, datagrams, EPOLLIN, (uint64_t)datagrams, EPOLL_CTL_ADD);
  say_ready();
  for (;;) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, -1);
    for (int i = 0; i < count; i++) {
      int fd = (int)events[i].data.u64;
      if (fd == datagrams) {
        echo_datagrams(fd);
      } else if (fd != streams) {
        echo_stream(fd);
      } else {
        int accepted;
        while ((accepted = accept4(streams, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
          no_delay(accepted);
          watch(poller, accepted, EPOLLIN, (uint64_t)accepted, EPOLL_CTL_ADD);
        }
      }
    }
  }
}

// Turns a question of one name into its answer, in place. @returns its length, 0 for what is no question
static size_t answer(uint8_t *message, size_t length) {
  static const uint8_t record[] = {0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 7};
  size_t at = DNS_HEADER_BYTES;
  while (at < length && message[at] != 0) at += message[at] + 1u;
  at += 5;
  if (at > length || at + sizeof record > DNS_LARGEST) return 0;
  static const uint8_t head[] = {0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0};
  memcpy(message + 2, head, sizeof head);
  memcpy(message + at, record, sizeof record);
  return at + sizeof record;
}

// Room for `BATCH` messages, each with its sender.
struct letters {
  uint8_t data[BATCH][DNS_LARGEST];
  struct sockaddr_in from[BATCH];
  struct iovec pieces[BATCH];
  struct mmsghdr heads[BATCH];
};

static void empty(struct letters *all, bool named) {
  memset(all->heads, 0, sizeof all->heads);
  for (int i = 0; i < BATCH; i++) {
    all->pieces[i] = (struct iovec){all->data[i], DNS_LARGEST};
    all->heads[i].msg_hdr.msg_iov = &all->pieces[i];
    all->heads[i].msg_hdr.msg_iovlen = 1;
    if (!named) continue;
    all->heads[i].msg_hdr.msg_name = &all->from[i];
    all->heads[i].msg_hdr.msg_namelen = sizeof all->from[i];
  }
}

static void name_server(void) {
  static struct letters all;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (bind(fd, (void *)&peer, sizeof peer) < 0) fail("bind");
  say_ready();
  for (;;) {
    empty(&all, true);
    int got = recvmmsg(fd, all.heads, BATCH, MSG_WAITFORONE, NULL), good = 0;
    for (int i = 0; i < got; i++) {
      size_t length = all.heads[i].msg_len < DNS_HEADER_BYTES ? 0 : answer(all.data[i], all.heads[i].msg_len);
      if (length == 0) continue;
      all.pieces[i].iov_len = length;
      all.heads[good++] = all.heads[i];
    }
    for (int at = 0; at < good;) {
      int sent = sendmmsg(fd, all.heads + at, (unsigned)(good - at), 0);
      // One that cannot be sent is lost, as a datagram may be.
      at += sent > 0 ? sent : 1;
    }
  }
}

// One request and its answer on a blocking socket. @returns false if there is none
static bool exchange(int fd, ssize_t bytes) {
  char message[MESSAGE_BYTES] = {0};
  if (send(fd, message, (size_t)bytes, MSG_NOSIGNAL) != bytes) return false;
  return recv(fd, message, (size_t)bytes, MSG_WAITALL) == bytes;
}

static void rr(double seconds, ssize_t bytes) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (void *)&peer, sizeof peer) < 0) fail("connect");
  no_delay(fd);
  double start = now(), before = start;
  while (before - start < seconds) {
    if (!exchange(fd, bytes)) fail("no answer");
    double after = now();
    sample(after - before);
    before = after;
  }
  report(before - start, "failed", 0);
}

struct flow {
  int fd;
  double since;
};

static void open_flow(int poller, struct flow *flow, uint64_t tag) {
  flow->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (flow->fd < 0) fail("socket");
  no_delay(flow->fd);
  flow->since = now();
  if (connect(flow->fd, (void *)&peer, sizeof peer) < 0 && errno != EINPROGRESS) fail("connect");
  watch(poller, flow->fd, EPOLLOUT, tag, EPOLL_CTL_ADD);
}

// The socket can be written or read, or has failed. @returns 1 after its answer, -1 if it failed, else 0
static int step(int poller, struct flow *flow, uint32_t what, uint64_t tag) {
  char message[MESSAGE_BYTES] = {0};
  if ((what & EPOLLOUT) != 0 && (what & EPOLLERR) == 0) {
    if (send(flow->fd, message, sizeof message, MSG_NOSIGNAL) != MESSAGE_BYTES) return -1;
    watch(poller, flow->fd, EPOLLIN, tag, EPOLL_CTL_MOD);
    return 0;
  }
  // 64 bytes travel in one segment.
  return read(flow->fd, message, sizeof message) == MESSAGE_BYTES ? 1 : -1;
}

static void crr(double seconds, size_t width) {
  struct flow *flows = calloc(width, sizeof *flows);
  int poller = epoll_create1(0);
  long failed = 0;
  double start = now(), t = start;
  for (size_t i = 0; i < width; i++) open_flow(poller, &flows[i], i);
  while (t - start < seconds) {
    struct epoll_event events[EVENTS];
    int count = epoll_wait(poller, events, EVENTS, 100);
    for (int i = 0; i < count; i++) {
      uint64_t tag = events[i].data.u64;
      int came = step(poller, &flows[tag], events[i].events, tag);
      if (came == 0) continue;
      close(flows[tag].fd);
      if (came > 0) sample(now() - flows[tag].since);
      else failed++;
      open_flow(poller, &flows[tag], tag);
    }
    t = now();
  }
  // A flow that has waited a second for its answer is as bad as one that failed.
  for (size_t i = 0; i < width; i++) failed += t - flows[i].since > 1;
  report(t - start, "failed", failed);
}

static double sent_at[IDS];

// What datagrams hold.
enum kind { ECHO, NEW_NAMES, OLD_NAMES };

// A datagram with its number in the first two bytes, where DNS has it too. @returns its length
static size_t compose(uint8_t *message, enum kind kind, uint32_t number) {
  memset(message, 0, MESSAGE_BYTES);
  message[0] = (uint8_t)(number >> 8);
  message[1] = (uint8_t)number;
  if (kind == ECHO) return MESSAGE_BYTES;
  message[2] = 1;  // recursion desired
  message[5] = 1;  // one question
  char label[24];
  int length = snprintf(label, sizeof label, "n%x-%x", (unsigned)getpid(), kind == OLD_NAMES ? number % KNOWN_NAMES : number);
  uint8_t *at = message + DNS_HEADER_BYTES;
  *at++ = (uint8_t)length;
  memcpy(at, label, (size_t)length);
  at += length;
  static const uint8_t rest[] = "\5bench\7example\0\0\1\0";
  memcpy(at, rest, sizeof rest);
  at[sizeof rest - 1] = 1;
  return (size_t)(at - message) + sizeof rest;
}

// An answer has come. @returns true if it stands for a question that was still open
static bool came(const uint8_t *message, size_t length, bool dns, double t) {
  if (length < 2) return false;
  double *at = &sent_at[message[0] << 8 | message[1]];
  if (*at == 0) return false;
  // Of DNS only an answer without error counts, with an address.
  if (!dns || (length > DNS_HEADER_BYTES && (message[3] & 15) == 0 && message[7] > 0)) sample(t - *at);
  *at = 0;
  return true;
}

// @param batch messages for one system call at most
static void datagrams(double seconds, enum kind kind, uint32_t width, uint32_t batch) {
  static struct letters out, in;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  struct timeval patience = {.tv_usec = LOST_MS * 1000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, (void *)&peer, sizeof peer) < 0) fail("connect");
  uint32_t sent = 0, wanted = width;
  double start = now(), t = start;
  empty(&out, false);
  empty(&in, false);
  while (t - start < seconds) {
    while (wanted > 0) {
      uint32_t count = wanted < batch ? wanted : batch;
      for (uint32_t i = 0; i < count; i++) {
        out.pieces[i].iov_len = compose(out.data[i], kind, sent);
        sent_at[sent++ % IDS] = t;
      }
      if (sendmmsg(fd, out.heads, count, 0) < 0 && errno != ECONNREFUSED && errno != ENOBUFS) fail("sendmmsg");
      wanted -= count;
    }
    int got = recvmmsg(fd, in.heads, batch, MSG_WAITFORONE, NULL);
    t = now();
    if (got < 0) wanted = width;
    for (int i = 0; i < got; i++) wanted += came(in.data[i], in.heads[i].msg_len, kind != ECHO, t);
  }
  // What is still on its way at the end is not lost.
  long lost = (long)sent - (long)sample_count - (long)width;
  report(t - start, "lost", lost > 0 ? lost : 0);
}

static void hold(size_t count) {
  int *fds = calloc(count, sizeof *fds);
  struct timeval patience = {.tv_sec = HOLD_LIMIT_SEC};
  size_t opened = 0, alive = 0;
  int failures = 0;
  many_files();
  double start = now();
  for (size_t i = 0; i < count && failures < HOLD_FAILURES; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (fd >= 0 && connect(fd, (void *)&peer, sizeof peer) == 0 && exchange(fd, MESSAGE_BYTES)) {
      fds[opened++] = fd;
      failures = 0;
    } else {
      close(fd);
      failures++;
    }
  }
  double seconds = now() - start;
  printf("held\n");
  fflush(stdout);
  getchar();
  for (size_t i = 0; i < opened; i++) alive += exchange(fds[i], MESSAGE_BYTES);
  printf("{\"opened\":%zu,\"alive\":%zu,\"openSeconds\":%.3f}\n", opened, alive, seconds);
}

int main(int argc, char **argv) {
  const char *mode = argc > 3 ? argv[1] : "";
  if (argc > 3) {
    peer.sin_family = AF_INET;
    peer.sin_port = htons((uint16_t)atoi(argv[3]));
    if (inet_pton(AF_INET, argv[2], &peer.sin_addr) != 1) mode = "";
  }
  double third = argc > 4 ? atof(argv[4]) : 0;
  int width = argc > 5 ? atoi(argv[5]) : 1;
  if (strcmp(mode, "serve") == 0) serve();
  else if (strcmp(mode, "name-server") == 0) name_server();
  else if (strcmp(mode, "rr") == 0 && third > 0 && width > 0 && width <= MESSAGE_BYTES) rr(third, width);
  else if (strcmp(mode, "crr") == 0 && third > 0 && width > 0) crr(third, (size_t)width);
  else if (strcmp(mode, "udprr") == 0 && third > 0 && width > 0) datagrams(third, ECHO, (uint32_t)width, 1);
  else if (strcmp(mode, "dns") == 0 && third > 0 && width > 0) datagrams(third, NEW_NAMES, (uint32_t)width, BATCH);
  else if (strcmp(mode, "dnscached") == 0 && third > 0 && width > 0) datagrams(third, OLD_NAMES, (uint32_t)width, BATCH);
  else if (strcmp(mode, "hold") == 0 && third >= 1) hold((size_t)third);
  else {
    fprintf(stderr, "usage: probe serve|name-server|rr|crr|udprr|dns|dnscached|hold ADDR PORT [SECONDS|N] [N]\n");
    return 64;
  }
  return 0;
}
