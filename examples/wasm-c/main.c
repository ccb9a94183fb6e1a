// How far apart two places are: a WASI command in C. The event comes on standard input, what is
// printed is the answer, and what goes to standard error is the log.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EVENT_BYTES_MAX 65536
#define EARTH_KM 6371.0088
#define RADIANS (3.14159265358979323846 / 180)

typedef struct {
  double latitude, longitude;
} Place;

static char event[EVENT_BYTES_MAX + 1];

static size_t read_event(void) {
  size_t size = 0;
  for (ssize_t got; (got = read(STDIN_FILENO, event + size, EVENT_BYTES_MAX - size)) > 0;)
    size += got;
  return size;
}

// Two numbers after `"name":`, as JSON's [48.85, 2.35] or as a query's "48.85,2.35".
static int find_place(const char *text, const char *name, Place *place) {
  char wanted[16];
  snprintf(wanted, sizeof wanted, "\"%s\":", name);
  const char *at = strstr(text, wanted);
  if (!at)
    return 0;
  at += strlen(wanted);
  at += strspn(at, " [\"");
  char *end;
  place->latitude = strtod(at, &end);
  if (end == at)
    return 0;
  at = end + strspn(end, ", ");
  place->longitude = strtod(at, &end);
  return end != at && fabs(place->latitude) <= 90 && fabs(place->longitude) <= 180;
}

static double kilometres(Place a, Place b) {
  double north = sin((b.latitude - a.latitude) * RADIANS / 2);
  double east = sin((b.longitude - a.longitude) * RADIANS / 2);
  double part = north * north +
                cos(a.latitude * RADIANS) * cos(b.latitude * RADIANS) * east * east;
  return 2 * EARTH_KM * asin(sqrt(part));
}

int main(void) {
  if (read_event() == EVENT_BYTES_MAX) {
    printf("{\"statusCode\": 413, \"body\": {\"error\": \"too much is said\"}}");
    return 0;
  }
  // Of an HTTP event only the query counts: a header may be called `from` too.
  char *query = strstr(event, "\"queryStringParameters\":");
  const char *text = query ? query : event;
  Place from, to;
  if (!find_place(text, "from", &from) || !find_place(text, "to", &to)) {
    fprintf(stderr, "refused: %s\n", getenv("HEARTH_REQUEST_ID"));
    printf("{\"statusCode\": 400, \"body\": {\"error\": \"from and to are latitude, longitude\"}}");
    return 0;
  }
  double km = kilometres(from, to);
  fprintf(stderr, "%.1f km\n", km);
  printf("{\"km\": %.1f}", km);
  return 0;
}
