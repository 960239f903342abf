/* model_watch.h - notice that the files of a model change: it was copied in, or repaired. */
#ifndef MODEL_WATCH_H
#define MODEL_WATCH_H

#include <stdbool.h>

/* A descriptor that becomes readable when something changes in the model's directory, its ckpts/, or where they will
 * be. -1: model is no path (a hub id, NULL), or the system refuses. */
int model_watch_open(const char *model);
/* Read the events; true when one was about the model. Watches folders that have appeared. */
bool model_watch_read(int fd, const char *model);

#endif
