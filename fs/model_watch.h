/* model_watch.h - notice that the files of a model change: it was copied in, or repaired. */
#ifndef MODEL_WATCH_H
#define MODEL_WATCH_H

#include "hash.h"

#include <stdbool.h>

/* A descriptor that becomes readable when something changes in the model's directory, its ckpts/, or where they will
 * be. -1: model is no path (a hub id, NULL), or the system refuses. */
int model_watch_open(const char *model);
/* Read the events; true when one was about the model. Watches folders that have appeared. */
bool model_watch_read(int fd, const char *model);

/* Add to the hash which model it is: its path, and of each file of the directory and of the folders in it which one it is, how long
 * and of when. So one that is repaired or replaced is another one. Of what is no path, only the name. May block on its disk. */
void model_identify(const char *model, struct hash *hash);

#endif
