/* ops.h - the table of FUSE operations. The session's user data is a struct fs. */
#ifndef OPS_H
#define OPS_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

extern const struct fuse_lowlevel_ops trellisfs_ops;

/* For special_start. */
void ops_notify_poll(void *waiter);
void ops_drop_poll(void *waiter);

#endif
