// A receiver for notifications: answers 204 to every request, one at a time, on a port of its choice.
// Invariant: it keeps nothing of what it receives. Compiled and started by Tests/Measure.
//
//   sink FILE    writes the port to FILE once it listens

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { most_connections = 32 };

int main(int count, char **arguments) {
  static const char answer[] = "HTTP/1.1 204 No Content\r\n\r\n";
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  struct pollfd watched[most_connections + 1] = {{.events = POLLIN}};
  int connections = 0;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  watched[0].fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (count != 2 || bind(watched[0].fd, (struct sockaddr *)&address, size) != 0 || listen(watched[0].fd, 16) != 0 ||
      getsockname(watched[0].fd, (struct sockaddr *)&address, &size) != 0) {
    return 1;
  }
  FILE *file = fopen(arguments[1], "w");
  if (file == NULL || fprintf(file, "%d\n", ntohs(address.sin_port)) < 0 || fclose(file) != 0) return 1;
  for (;;) {
    if (poll(watched, (nfds_t)connections + 1, -1) < 0) return 1;
    for (int index = connections; index > 0; index--) {
      char bytes[65536];
      if (!(watched[index].revents & (POLLIN | POLLHUP | POLLERR))) continue;
      ssize_t received = recv(watched[index].fd, bytes, sizeof bytes, 0);
      // A body's last byte closes its object: one answer a notification, which fits one read.
      if (received > 0 && bytes[received - 1] != '}') continue;
      if (received > 0 && send(watched[index].fd, answer, sizeof answer - 1, MSG_NOSIGNAL) > 0) continue;
      close(watched[index].fd);
      watched[index] = watched[connections--];
    }
    if (watched[0].revents & POLLIN && connections < most_connections) {
      int accepted = accept(watched[0].fd, NULL, NULL);
      if (accepted >= 0) watched[++connections] = (struct pollfd){.fd = accepted, .events = POLLIN};
    }
  }
}
