/* mount.h - put the file system on its mountpoint and run it until it is unmounted or told to end. */
#ifndef MOUNT_H
#define MOUNT_H

#include "fs.h"

/* path with its folder resolved and its last component as it is; malloc'd. NULL and err: no such folder. */
char *mount_absolute_path(const char *path, struct error *err);

/* Check the mountpoint: a folder, empty, not mounted on; a dead mount of ours is taken away first. */
bool mount_prepare(const char *mountpoint, struct error *err);

bool mount_is_empty(const char *path, struct error *err);

/* Mount and serve. ready is called from another thread once the mount answers or has failed to; returns when the mount
 * has gone. False: it never came up, or the loop failed. */
bool mount_run(struct fs *fs, void (*ready)(void *user, const struct error *failure), void *user, struct error *err);

#endif
