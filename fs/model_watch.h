/* model_watch.h - notice that the files of a model change: it was copied in, or repaired. */
#ifndef MODEL_WATCH_H
#define MODEL_WATCH_H

#include <stdbool.h>

/* A descriptor that becomes readable when something changes in the model's directory, its ckpts/, or where they will
 * be. -1: model is no path (a hub id, NULL), or the system refuses. */
int model_watch_open(const char *model);
/* Read the events; watches folders that have appeared. */
void model_watch_drain(int fd, const char *model);

#endif
