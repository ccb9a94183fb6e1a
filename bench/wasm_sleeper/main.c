// Sleeps five seconds: a call that is at work while the bench looks at the host's memory.
#include <stdio.h>
#include <time.h>

int main(void) {
  struct timespec moment = {5, 0};
  nanosleep(&moment, NULL);
  printf("%s", "null");
  return 0;
}
