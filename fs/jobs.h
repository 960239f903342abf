/* jobs.h - which inputs were submitted, what became of them, and which results came of which content.
 * Plain data, no threads, no disk: fs->lock guards it, record.h persists it, scheduler.c works the queue off.
 *
 * An input has at most one job at a time, so an input *is* its job. */
#ifndef JOBS_H
#define JOBS_H

#include "error.h"
#include "protocol.h"
#include "tree.h"

enum { JOBS_KEY_LEN = 16, JOBS_POISON = 3 };

enum input_state { INPUT_IDLE, INPUT_QUEUED, INPUT_RUNNING, INPUT_DONE, INPUT_FAILED };

/* The order of the fields leaves no gaps, as in tree.h. */
struct input {
	uint64_t id; /* of its node */
	struct table_link by_id, by_stem;
	struct input_list *list;	    /* one of those of struct jobs; NULL: in none */
	struct input *before, *after;	    /* in list */
	uint64_t seq;			    /* order of submission */
	uint8_t key[JOBS_KEY_LEN];	    /* hash of the content and the effective options last submitted */
	int64_t stamp_size, stamp_mtime_ns; /* of the content's file then: differs at a start = written since */
	int64_t retry_ns;		    /* CLOCK_MONOTONIC: not to run before; not persisted */
	char *stem;			    /* "d/a": its results are out/d/a.*; NULL: none yet */
	char *old_stem; /* those of before are there still, until they have followed; this one is persisted then */
	char *error;	/* one line; INPUT_FAILED */
	struct job_options options; /* of that submission */
	uint32_t uid;		    /* whose turn it uses */
	uint32_t failed_devices;    /* which devices failed that had it: a set of workers.c; not persisted */
	uint8_t device_failures;    /* and how often; not persisted */
	uint8_t storage_tries;	    /* how often the state disk was full; not persisted */
	uint8_t deaths;		    /* workers that died with it */
	uint8_t state : 3;	    /* enum input_state */
	bool early : 1;		    /* submitted before its picture has settled: what comes of it is held until then */
	bool restless : 1;	    /* an early job was withdrawn: no other one until the picture has settled */
	bool unpublished : 1;	    /* done through results that exist, or failed, before it ran: the scheduler has to
				 publish that */
	bool moved : 1; /* its name is another one now, and perhaps its stem: its results are to follow (follow.h) */
	bool aside : 1; /* its name is junk for now: it owns no stem */
};

/* A file in out/ that a job made. */
struct result {
	uint64_t id;	 /* of its node */
	uint64_t source; /* id of the input */
	struct table_link by_id;
	struct table_link by_key;      /* the first of those of one key and kind is in the table */
	struct result *before, *after; /* of the same key and kind, the newest first */
	uint8_t key[JOBS_KEY_LEN];
	int64_t size : 56; /* of the file; 0: not known */
	uint8_t output;	   /* enum job_output; JOB_OUTPUTS: an error file */
};

/* What a user has in a queue, by seq; never empty. */
struct input_list {
	struct input_queue *queue;
	struct input_list *next; /* by uid */
	struct input *first, *last;
	uint32_t uid;
};

struct input_queue {
	struct input_list *users;
	struct input_list spare; /* of one user, and of all who come when there is no memory for a list of their own */
	long n;			 /* inputs */
};

struct jobs {
	struct table inputs_by_id, inputs_by_stem, results_by_id, results_by_key;
	size_t n_inputs, n_results;
	struct input_queue queue;    /* INPUT_QUEUED */
	struct input_queue outcomes; /* unpublished */
	struct input_queue moves;    /* done or failed, and moved; as they come */
	long n_done, n_failed;	     /* since the daemon started */
	uint64_t next_seq;
	uint32_t last_uid, last_outcome_uid; /* who had the last turn in the queue, and among the outcomes */
	bool loading; /* no lists yet: they are made by jobs_loaded, which is quicker than one at a time */
};

bool jobs_init(struct jobs *jobs);
void jobs_finish(struct jobs *jobs);

/* End of loading: every input goes to the list of its state. */
void jobs_loaded(struct jobs *jobs);

struct input *jobs_find(const struct jobs *jobs, uint64_t id);
/* Found or made, INPUT_IDLE. NULL: out of memory. */
struct input *jobs_input(struct jobs *jobs, uint64_t id);
/* Take it out of every table and free it. NULL is fine. */
void jobs_forget(struct jobs *jobs, struct input *input);

/* Whether the outcome of this submission is still wanted: the input was neither deleted nor written or submitted again. NULL is
 * fine. */
bool jobs_wants(const struct input *input, uint64_t seq);

/* Change the state, and with it the list that the input is in. */
void jobs_set_state(struct jobs *jobs, struct input *input, enum input_state state, bool unpublished);
/* Its name has changed, or its results have followed. */
void jobs_set_moved(struct jobs *jobs, struct input *input, bool moved);
/* The one that waits longest for its results to follow, or NULL. */
struct input *jobs_first_move(const struct jobs *jobs);
/* A new submission: the next place in the order. */
void jobs_enqueue(struct jobs *jobs, struct input *input);
/* Whose turn it is: the oldest input of the next user that may run, in a circle over the users who wait. NULL: none does. It looks
 * at no more than one of each user, and those that may not. */
struct input *jobs_next(
	struct jobs *jobs, bool (*may)(void *user, const struct input *input), void *user); /* may NULL: all may */
/* All of the queue, user by user: the one after `input`, of which NULL gives the first. */
struct input *jobs_each_queued(const struct jobs *jobs, const struct input *input);
/* Outcomes in the order of their turns: the oldest of each user, in a circle that starts after last_outcome_uid, then the
 * second of each ... How many. */
enum { JOBS_TURNS_MAX = 32 };
size_t jobs_outcome_turns(const struct jobs *jobs, struct input *turns[JOBS_TURNS_MAX]);
bool jobs_set_error(struct input *input, const char *text);
/* It ends as failed, without a file that says so. */
void jobs_fail(struct jobs *jobs, struct input *input);

/* What an input is called where people read: "d/a.png", or ".../c/a.png" where that is longer than size, which is at least
 * JOBS_NAME_MIN. node: NULL or without a name is fine. */
enum { JOBS_NAME_MIN = TREE_NAME_MAX + 8 };
const char *jobs_show_name(const struct tree_node *node, char *out, size_t size);

/* For stem.h and for loading: */
bool jobs_set_stem(struct jobs *jobs, struct input *input, const char *stem);
/* The inputs of that stem, one after another: after NULL is the first. NULL: no more. */
struct input *jobs_by_stem(const struct jobs *jobs, const char *stem, const struct input *after);

struct result *jobs_result(const struct jobs *jobs, uint64_t id);
/* The newest result of this key and kind, or NULL. */
struct result *jobs_result_by_key(const struct jobs *jobs, const uint8_t *key, enum job_output output);
struct result *jobs_add_result(struct jobs *jobs, uint64_t id, uint64_t source, const uint8_t *key, unsigned output);
void jobs_drop_result(struct jobs *jobs, uint64_t id); /* nothing when there is none */

#endif
