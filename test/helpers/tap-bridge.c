// Joins a TAP device to a stream of frames on a unix socket, so that a network namespace plays the VM at native speed.
//
//   tap-bridge DEVICE SOCKET qemu|vpnkit MTU [UUID]
//
// Makes the device (it goes away with the process), does vpnkit's handshake where asked, prints "ready [MAC]", and then moves
// frames in batches both ways. Ends with status 0 when the other side closes the stream. Build: cc -O2 -o tap-bridge tap-bridge.c

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
  LARGEST_FRAME = 65535 + 18,
  BATCH_BYTES = 192 * 1024,
  BUFFER_BYTES = BATCH_BYTES + LARGEST_FRAME + 4,
  VPNKIT_VERSION = 22,
  VPNKIT_INIT = 49,
  VPNKIT_COMMAND = 41,
  VPNKIT_RESPONSE = 258,
};

// Bytes waiting to go out: [from, to) of data.
struct batch {
  uint8_t data[BUFFER_BYTES];
  size_t from, to;
};

static struct batch to_stream, from_stream;
static bool big_endian_u32;

static void fail(const char *what) {
  fprintf(stderr, "tap-bridge: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int open_tap(const char *name, int mtu) {
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail("/dev/net/tun");
  struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(fd, TUNSETIFF, &request) < 0) fail("TUNSETIFF");
  // A short queue would drop frames in the device, and the measurement would be of that.
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  request.ifr_mtu = mtu;
  if (ioctl(control, SIOCSIFMTU, &request) < 0) fail("SIOCSIFMTU");
  request.ifr_qlen = 50000;
  if (ioctl(control, SIOCSIFTXQLEN, &request) < 0) fail("SIOCSIFTXQLEN");
  close(control);
  return fd;
}

static void set_mac(const char *name, const uint8_t *mac) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  request.ifr_hwaddr.sa_family = 1; // ARPHRD_ETHER
  memcpy(request.ifr_hwaddr.sa_data, mac, 6);
  if (ioctl(control, SIOCSIFHWADDR, &request) < 0) fail("SIOCSIFHWADDR");
  close(control);
}

static int connect_stream(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) {
    errno = ENAMETOOLONG;
    fail(path);
  }
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) fail(path);
  return fd;
}

static void read_exactly(int fd, uint8_t *into, size_t length) {
  for (size_t have = 0; have < length;) {
    ssize_t got = read(fd, into + have, length - have);
    if (got == 0) errno = ECONNRESET;
    if (got <= 0) fail("handshake");
    have += (size_t)got;
  }
}

static void vpnkit_handshake(int fd, const char *uuid, uint8_t *mac) {
  uint8_t init[VPNKIT_INIT] = "VMN3T", command[VPNKIT_COMMAND] = {1}, response[VPNKIT_RESPONSE];
  init[5] = VPNKIT_VERSION;
  memset(init + 9, '0', 40);
  if (write(fd, init, sizeof init) != sizeof init) fail("handshake");
  read_exactly(fd, init, sizeof init);
  if (uuid != NULL) memcpy(command + 1, uuid, strnlen(uuid, 36));
  if (write(fd, command, sizeof command) != sizeof command) fail("handshake");
  read_exactly(fd, response, sizeof response);
  if (response[0] != 1) {
    fprintf(stderr, "tap-bridge: refused: %.*s\n", response[1], response + 2);
    exit(1);
  }
  memcpy(mac, response + 5, 6);
}

// Frames from the device into the batch, each behind its length. False when the device had no more.
static bool fill_from_tap(int tap) {
  struct batch *batch = &to_stream;
  size_t prefix = big_endian_u32 ? 4 : 2;
  if (batch->from == batch->to) batch->from = batch->to = 0;
  while (batch->to < BATCH_BYTES) {
    uint8_t *at = batch->data + batch->to;
    ssize_t length = read(tap, at + prefix, LARGEST_FRAME);
    if (length < 0) {
      if (errno == EAGAIN || errno == EINTR) return false;
      fail("read from the device");
    }
    if (big_endian_u32) {
      at[0] = (uint8_t)(length >> 24);
      at[1] = (uint8_t)(length >> 16);
      at[2] = (uint8_t)(length >> 8);
      at[3] = (uint8_t)length;
    } else {
      at[0] = (uint8_t)length;
      at[1] = (uint8_t)(length >> 8);
    }
    batch->to += prefix + (size_t)length;
  }
  return true;
}

static void flush_to_stream(int stream) {
  struct batch *batch = &to_stream;
  while (batch->from < batch->to) {
    ssize_t sent = send(stream, batch->data + batch->from, batch->to - batch->from, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
      if (errno == EAGAIN || errno == EINTR) return;
      if (errno == EPIPE || errno == ECONNRESET) exit(0);
      fail("write to the stream");
    }
    batch->from += (size_t)sent;
  }
}

static void drain_stream(int stream, int tap) {
  struct batch *batch = &from_stream;
  size_t prefix = big_endian_u32 ? 4 : 2;
  ssize_t got = recv(stream, batch->data + batch->to, sizeof batch->data - batch->to, MSG_DONTWAIT);
  if (got == 0) exit(0);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    if (errno == ECONNRESET) exit(0);
    fail("read from the stream");
  }
  batch->to += (size_t)got;
  while (batch->to - batch->from >= prefix) {
    const uint8_t *at = batch->data + batch->from;
    size_t length = big_endian_u32 ? (size_t)at[0] << 24 | (size_t)at[1] << 16 | (size_t)at[2] << 8 | at[3]
                                   : (size_t)at[1] << 8 | at[0];
    if (length > LARGEST_FRAME) {
      fprintf(stderr, "tap-bridge: a frame of %zu bytes\n", length);
      exit(2);
    }
    if (batch->to - batch->from < prefix + length) break;
    // The device refuses frames while it is down; those are lost like on a cable that is not plugged in.
    if (write(tap, at + prefix, length) < 0 && errno != EIO && errno != EINVAL && errno != EAGAIN) fail("write to the device");
    batch->from += prefix + length;
  }
  memmove(batch->data, batch->data + batch->from, batch->to - batch->from);
  batch->to -= batch->from;
  batch->from = 0;
}

int main(int argc, char **argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: tap-bridge DEVICE SOCKET qemu|vpnkit MTU [UUID]\n");
    return 64;
  }
  big_endian_u32 = strcmp(argv[3], "qemu") == 0;
  int stream = connect_stream(argv[2]);
  uint8_t mac[6];
  if (!big_endian_u32) vpnkit_handshake(stream, argc > 5 ? argv[5] : NULL, mac);
  int tap = open_tap(argv[1], atoi(argv[4]));
  if (big_endian_u32) {
    puts("ready");
  } else {
    set_mac(argv[1], mac);
    printf("ready %02x:%02x:%02x:%02x:%02x:%02x\n", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
  }
  fflush(stdout);

  for (;;) {
    bool waiting = to_stream.from < to_stream.to;
    struct pollfd ends[2] = {
        {.fd = stream, .events = (short)(POLLIN | (waiting ? POLLOUT : 0))},
        // While the stream does not take the last batch, the device's own queue holds what follows.
        {.fd = waiting ? -1 : tap, .events = POLLIN},
    };
    if (poll(ends, 2, -1) < 0 && errno != EINTR) fail("poll");
    if (ends[0].revents & (POLLIN | POLLHUP | POLLERR)) drain_stream(stream, tap);
    if (waiting) flush_to_stream(stream);
    if (ends[1].revents & POLLIN) {
      fill_from_tap(tap);
      flush_to_stream(stream);
    }
  }
}
