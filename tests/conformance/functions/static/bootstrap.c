/* A custom runtime in C with nothing but sockets: echoes an event; streams "n" lines when the event
   is {"stream": n}. Linked statically, so that it needs nothing of the image. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char buffer[1 << 20];
static int wire = -1;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void dial(void) {
    const char *api = getenv("AWS_LAMBDA_RUNTIME_API");
    const char *colon = api ? strchr(api, ':') : NULL;
    char host[64] = "";
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (!colon || (size_t)(colon - api) >= sizeof host) fail("AWS_LAMBDA_RUNTIME_API");
    memcpy(host, api, (size_t)(colon - api));
    to.sin_port = htons((unsigned short)atoi(colon + 1));
    inet_pton(AF_INET, host, &to.sin_addr);
    wire = socket(AF_INET, SOCK_STREAM, 0);
    if (wire < 0 || connect(wire, (struct sockaddr *)&to, sizeof to)) fail("connect");
}

static void say(const char *data, size_t size) {
    while (size) {
        ssize_t sent = write(wire, data, size);
        if (sent <= 0) fail("write");
        data += sent;
        size -= (size_t)sent;
    }
}

/* Reads one answer whole; its body, which ends with a zero. */
static char *hear(size_t *length) {
    size_t held = 0;
    for (;;) {
        ssize_t got = read(wire, buffer + held, sizeof buffer - 1 - held);
        if (got <= 0) fail("read");
        held += (size_t)got;
        buffer[held] = 0;
        char *body = strstr(buffer, "\r\n\r\n");
        char *said = strstr(buffer, "Content-Length: ");
        if (!body || !said) continue;
        body += 4;
        *length = strtoul(said + 16, NULL, 10);
        if (held - (size_t)(body - buffer) >= *length) return body;
    }
}

static void stream(const char *id, int lines) {
    char text[512], line[64];
    int size = snprintf(text, sizeof text,
                        "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\n"
                        "Host: api\r\nContent-Type: text/plain\r\n"
                        "Lambda-Runtime-Function-Response-Mode: streaming\r\n"
                        "Transfer-Encoding: chunked\r\n\r\n", id);
    say(text, (size_t)size);
    for (int n = 0; n < lines; n++) {
        int body = snprintf(line, sizeof line, "line %d\n", n);
        size = snprintf(text, sizeof text, "%x\r\n%s\r\n", body, line);
        say(text, (size_t)size);
    }
    say("0\r\n\r\n", 5);
}

int main(void) {
    static const char next[] =
        "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: api\r\n\r\n";
    static char event[1 << 20];
    char id[128], text[512];
    size_t length;
    dial();
    for (;;) {
        say(next, sizeof next - 1);
        char *body = hear(&length);
        char *said = strstr(buffer, "Lambda-Runtime-Aws-Request-Id: ");
        if (!said || sscanf(said + 31, "%127[^\r]", id) != 1) fail("no request id");
        memcpy(event, body, length + 1);
        char *lines = strstr(event, "{\"stream\": ");
        if (lines == event) {
            stream(id, atoi(lines + 11));
        } else {
            int size = snprintf(text, sizeof text,
                                "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\n"
                                "Host: api\r\nContent-Length: %zu\r\n\r\n", id, length);
            say(text, (size_t)size);
            say(event, length);
        }
        hear(&length);
    }
}
