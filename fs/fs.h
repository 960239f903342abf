/* fs.h - one mounted trellisfs: what its threads share, and who owns what.
 *
 *   thread          does                                                     may block on
 *   FUSE threads    ops.c: a request, one reply (names.c files.c xattrs.c)    the lock, the state disk
 *   ingest          ingest.c: settle, whole-image check, hash, submit        the lock, the state disk
 *   sync            sync.c: fsync in groups, removes contents, has the        the state disk
 *                   journal written anew (compact.c)
 *   contents        contents.c: looks at the contents after the start, then   the state disk
 *                   ends
 *   scheduler       scheduler.c: owns workers, publisher, model watch;       the helper (2 s, then it is replaced)
 *                   works the queue off, publishes; follow.c: moves results
 *   log             log.c: writes the log                                    whoever reads the log
 *   main            starts the others, then runs libfuse's loop              -
 *
 *   process         helper.c: makes results appear through the mount, so that inotify sees them. Started before the
 *                   mount; has no descriptor of it and never holds one while idle.
 *                   compact.c: for as long as the journal is written anew; the daemon's memory as it was, and no descriptor
 *                   but that of the new journal.
 *                   workers (`trellis worker`), one a device: the model. Started by worker_link.c,
 *                   chosen by workers.c.
 *
 * Lock order: fs->lock first (but for special.c's, which only the scheduler and the end take: that goes before it); ingest,
 * sync and scheduler each have a private lock for their mailbox, which is the last one taken and never held over a call. No
 * FUSE thread waits for anything but the lock and the state disk, and nobody makes a system call on the mount itself: only the
 * helper does. log.c's lock may be taken under any other: nobody waits for the log. Under fs->lock the only call to the disk is
 * the journal's write(): what may take long there, or sync, is done without it, with the node marked busy (files.c). */
#ifndef FS_H
#define FS_H

#include "jobs.h"
#include "journal.h"
#include "log.h"
#include "options.h"
#include "state.h"
#include "tree.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

struct ingest;
struct sync_thread;
struct contents;
struct scheduler;
struct special_files;

/* A result on its way into out/, and how FUSE threads recognise the helper that brings it (publish.h). */
struct publication {
	int32_t helper_pid; /* 0: no helper */
	char token[40];	    /* ".publish-" and 16 hexadecimal digits; "": nothing waits */
	uint64_t node;	    /* the nameless node */
	bool armed;	    /* the helper has looked the token up */
	uint64_t source;    /* the input it belongs to */
	uint64_t seq;	    /* of the submission: if the input has a newer one, this result is not wanted */
	uint8_t key[JOBS_KEY_LEN];
	uint8_t output;	 /* enum job_output or JOB_OUTPUTS */
	bool last;	 /* the input's outcome is complete with it */
	bool follows;	 /* a finished result that follows its picture: wanted as long as that is the same */
	uint64_t moving; /* what the helper is about to rename in out/; 0: nothing */
};

/* Folders that follow.c has yet to look through. */
struct follow_step {
	uint64_t folder; /* in in/; 0: it was removed */
	uint64_t after;	 /* the child that was looked at last */
	char *old_path;	 /* what it was called, if it is the one that was renamed or removed; else NULL */
	bool renamed;	 /* it, or one above it */
};
struct follow {
	struct follow_step *steps; /* a stack */
	size_t n, cap;
};

struct fs {
	const struct options *options; /* constant */
	struct state state;	       /* constant after the start */
	int64_t start_ns;	       /* constant: CLOCK_MONOTONIC */
	uint64_t first_new_id;	       /* constant after the start: contents below it were there before */
	bool sweeps;		       /* constant after the start: contents without a name were never to have one */
	bool begun;		       /* constant after the start: the journal is fit for writing */
	dev_t device;		       /* of the mount, as the helper saw it; scheduler thread only */
	atomic_bool all_seen;	       /* every content of before the start has been looked at */
	atomic_bool greeting;	       /* the reply to the kernel's INIT is on its way (mount.c) */

	pthread_mutex_t lock;
	struct tree tree;		/* lock */
	struct jobs jobs;		/* lock */
	struct journal journal;		/* lock, but for what journal.h says */
	uint64_t id_limit;		/* lock: ids below it may be given away: the journal has it, synced */
	pthread_cond_t content_idle;	/* with lock: a node is not busy any more */
	struct state_recovery recovery; /* lock; constant after the start but for missing_files */
	struct job_options config;	/* lock */
	int64_t used_bytes;		/* lock: sizes of all files */
	long unseen;			/* lock: files of in/ whose content has not been looked at since the start */
	struct bytes change;		/* lock: scratch of fs_commit */
	struct publication publication; /* lock */
	struct follow follow;		/* lock */

	/* Each set once before the FUSE loop starts, NULL in tests that need no threads. */
	struct ingest *ingest;
	struct sync_thread *sync;
	struct contents *contents;
	struct scheduler *scheduler;
	struct special_files *special;
};

/* Who asks, from the request. */
struct caller {
	uint32_t uid, gid;
	int32_t pid;
};

/* Open the state directory and read what is in it; changes nothing there but the lock. state_path: absolute. */
bool fs_load(struct fs *fs, const struct options *options, const char *state_path, enum state_mode mode,
	struct journal_report *report, struct error *err);
/* After fs_load: make it fit for changes. What a crash or damage left behind is put right; contents are looked at later
 * (contents.h). */
bool fs_begin(struct fs *fs, struct journal_report *report, struct error *err);
/* Both. */
bool fs_init(struct fs *fs, const struct options *options, const char *state_path, struct error *err);
/* After fs_begin: what there is, is synced, and the next start finds it so. */
void fs_finish(struct fs *fs);

/* Guarded by fs->lock:
 *   struct bytes *change = fs_change(fs);
 *   record_node(change, node); ...
 *   error = fs_commit(fs, false);          0 or errno: then nothing was written
 * It is durable soon, without a call of fsync: the sync thread is woken. */
struct bytes *fs_change(struct fs *fs);
int fs_commit(struct fs *fs, bool frees_space);

/* The id of a node to come; 0: none can be given away now (ENOSPC). Needs fs->lock. */
uint64_t fs_take_id(struct fs *fs);

/* Bytes against max_bytes: contents, and for every name what it and its attributes take in memory and journal. Needs fs->lock. */
enum { FS_NAME_BYTES = 512 };
int64_t fs_used(const struct fs *fs);
/* Whether so many bytes and names more are too many. Needs fs->lock. */
bool fs_over_quota(const struct fs *fs, int64_t bytes, int names);

/* Journal the reservation of ids when few are left, as the caller syncs next: the limit that holds then, or 0. Needs fs->lock. */
uint64_t fs_reserve_ids(struct fs *fs);

/* Times are kept as ns since 1970, negative before. */
int64_t fs_to_ns(struct timespec time);
struct timespec fs_to_timespec(int64_t ns);
int64_t fs_now_ns(void);       /* CLOCK_REALTIME, the clock of file times */
int64_t fs_monotonic_ns(void); /* CLOCK_MONOTONIC */

#endif
