// What conformance tests ask of a wasm function. cases.py does the same in Python, as far as a
// WASI command can: it has no files, no network and no other process.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static char *event;
static size_t size;
static int calls; // in memory that the next call must not see

static void read_event(void) {
  size_t room = 65536;
  event = malloc(room + 1);
  for (ssize_t got; (got = read(0, event + size, room - size)) > 0;) {
    size += got;
    if (size == room)
      event = realloc(event, (room *= 2) + 1);
  }
  event[size] = 0;
}

// The text after `"name":`, or NULL. Events of these tests have each name once, spaces aside.
static char *after(const char *name) {
  char wanted[64];
  snprintf(wanted, sizeof wanted, "\"%s\":", name);
  char *at = strstr(event, wanted);
  if (!at)
    return NULL;
  at += strlen(wanted);
  return at + strspn(at, " ");
}

static int does(const char *name) {
  char *said = after("do");
  size_t length = strlen(name);
  return said && said[0] == '"' && !strncmp(said + 1, name, length) && said[length + 1] == '"';
}

static long number(const char *name) {
  char *said = after(name);
  return said ? atol(said) : 0;
}

static char *text(const char *name) {
  char *said = after(name);
  if (!said || *said != '"')
    return "";
  said = strdup(said + 1);
  *strchr(said, '"') = 0;
  return said;
}

static void print_string(const char *value) {
  putchar('"');
  for (; *value; value++)
    if (*value == '"' || *value == '\\')
      printf("\\%c", *value);
    else
      putchar(*value);
  putchar('"');
}

static void print_environment(int argc, char **argv) {
  printf("{\"argv\":[");
  for (int n = 0; n < argc; n++) {
    printf(n ? "," : "");
    print_string(argv[n]);
  }
  printf("],\"env\":{");
  for (char **one = environ; *one; one++) {
    char *value = strchr(*one, '=');
    *value++ = 0;
    printf(one == environ ? "" : ",");
    print_string(*one);
    putchar(':');
    print_string(value);
  }
  printf("}}");
}

static void repeat(long times) {
  char *many = malloc(times + 2);
  memset(many, 'x', times + 2);
  many[0] = many[times + 1] = '"';
  fwrite(many, 1, times + 2, stdout);
}

static void pour(FILE *stream, long megabytes) {
  static char block[1 << 16];
  memset(block, 'y', sizeof block);
  for (size_t n = 99; n < sizeof block; n += 100)
    block[n] = '\n';
  for (long n = 0; n < megabytes * 16; n++)
    if (fwrite(block, 1, sizeof block, stream) < sizeof block)
      break;
}

static char *volatile last; // the compiler leaves out what nobody uses

static void grow(long megabytes) {
  for (long n = 0; n < megabytes; n++) {
    char *block = last = malloc(1 << 20);
    if (!block)
      abort();
    memset(block, 1, 1 << 20);
  }
}

static void try_to_open(const char *path) {
  int descriptor = open(path, O_RDONLY);
  printf("{\"descriptor\":%d,\"errno\":%d}", descriptor, descriptor < 0 ? errno : 0);
}

static int recurse(volatile int depth) { return depth < 0 ? 0 : recurse(depth + 1) + depth; }

static void spin(void) {
  for (volatile long n = 0;; n++)
    ;
}

static void http(void) {
  char *path = text("rawPath");
  if (!strcmp(path, "/event"))
    fwrite(event, 1, size, stdout);
  else if (!strcmp(path, "/teapot"))
    printf("{\"statusCode\":418,\"headers\":{\"X-Kind\":\"tea\",\"content-type\":\"text/plain\"},"
           "\"cookies\":[\"a=1\"],\"body\":\"short and stout\"}");
  else if (!strcmp(path, "/binary"))
    printf("{\"statusCode\":200,\"headers\":{\"content-type\":\"image/x\"},"
           "\"body\":\"AAEC/w==\",\"isBase64Encoded\":true}");
  else if (!strcmp(path, "/body"))
    printf("{\"statusCode\":200,\"body\":\"%s\",\"isBase64Encoded\":%s}", text("body"),
           strstr(event, "\"isBase64Encoded\":true") ? "true" : "false");
  else
    printf("{\"statusCode\":1}");
}

int main(int argc, char **argv) {
  read_event();
  calls++;
  if (after("requestContext"))
    http();
  else if (does("echo")) {
    char *value = after("value");
    fwrite(value, 1, event + size - value - 1, stdout); // all but the last brace
  } else if (does("nothing"))
    ;
  else if (does("count"))
    printf("%d", calls);
  else if (does("size"))
    printf("%zu", size);
  else if (does("repeat"))
    repeat(number("times"));
  else if (does("environment"))
    print_environment(argc, argv);
  else if (does("write")) {
    fprintf(stderr, "%s\n", text("err"));
    printf("null");
  } else if (does("noise")) {
    for (int byte = 0; byte < 256; byte++)
      fputc(byte, stderr);
    printf("null");
  } else if (does("fail")) {
    fprintf(stderr, "about to fail\n");
    return number("status");
  } else if (does("trap"))
    __builtin_trap();
  else if (does("recurse"))
    printf("%d", recurse(1));
  else if (does("spin"))
    spin();
  else if (does("sleep")) {
    long milliseconds = number("ms");
    struct timespec moment = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&moment, NULL);
    printf("\"slept\"");
  } else if (does("grow"))
    grow(number("mb")), printf("\"grown\"");
  else if (does("pour"))
    pour(stdout, number("mb"));
  else if (does("flood"))
    pour(stderr, number("mb")), printf("\"flooded\"");
  else if (does("open"))
    try_to_open(text("path"));
  else if (does("text"))
    printf("hello, not JSON");
  else if (does("clock")) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("%lld", (long long)now.tv_sec);
  } else
    return 64;
  return 0;
}
