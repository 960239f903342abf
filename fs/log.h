/* log.h - lines for the log: syslog, and stderr too in the foreground.
 *
 * Whoever reads the log may be slow, stopped or gone. So no thread that has something to say waits for it: a line goes into a
 * bounded ring, which a thread of its own empties. When the ring is full lines are dropped and counted, and the count follows. */
#ifndef LOG_H
#define LOG_H

#include "error.h"

#include <stdbool.h>

/* A line; control characters become '?'. Under any lock, from any thread. Before log_start it is written at once. */
__attribute__((format(printf, 1, 2))) void fs_log(const char *format, ...);

/* As whom, and whether stderr gets the lines as well; name is borrowed. Without it they go to syslog. */
void log_open(const char *name, bool to_stderr);
/* Start the thread; after the last fork. False: lines are still written at once. */
bool log_start(struct error *err);
/* Wait a second at most until everything is written; what is said later is lost. Nothing when there is no thread. */
void log_stop(void);

#endif
