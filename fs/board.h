/* board.h - what the scheduler tells of its workers, their jobs and the last errors, for everybody to read, and the wishes that
 * others have for those jobs. The lock in it comes after fs->lock and is never held over a call. */
#ifndef BOARD_H
#define BOARD_H

#include "status_text.h"
#include "workers.h"

/* A job of a worker. */
struct scheduler_job {
	uint64_t input; /* 0: none */
	struct message_progress progress;
	double running_s;
};

struct scheduler_worker {
	struct worker_report worker;
	bool stands_by;
	struct scheduler_job jobs[2]; /* on the device; being finished, or published */
};

struct scheduler_problem {
	uint64_t input; /* forgotten when this one becomes a mesh; 0: stays */
	char name[300], text[300];
	time_t when;
};

/* What status says of workers, jobs and errors; strings live in the copy. */
struct scheduler_report {
	char cutout[16];
	double last_s;
	struct scheduler_problem problems[10]; /* newest first */
	int n_problems;
	uint64_t publishing; /* an input without a worker whose outcome is being published; 0: none */
	char notice[512];
	int n_workers; /* at least 1 */
	struct scheduler_worker workers[WORKERS_MAX];
};

struct board {
	pthread_mutex_t lock;
	struct scheduler_report report; /* lock; running_s and retry_s are filled in by board_read */
	struct {
		int64_t started_ns[2]; /* its jobs */
		bool cancel[2];	       /* they are to be cancelled */
		int64_t retry_ns;      /* when the worker is started again */
	} more[WORKERS_MAX];	       /* lock; as report.workers */
};

void board_init(struct board *board);
void board_finish(struct board *board);

/* Any thread. */
void board_read(struct board *board, struct scheduler_report *report);
bool board_has_idle_worker(struct board *board);
void board_ask_cancel(struct board *board, uint64_t input);
void board_add_problem(struct board *board, uint64_t input, const char *name, const char *text);

/* The scheduler. worker and job are places in report.workers and its jobs. */
void board_forget_problems(struct board *board, uint64_t input);
void board_set_notice(struct board *board, const char *text);
void board_set_publishing(struct board *board, uint64_t input);
void board_set_worker(struct board *board, int worker, const struct worker_report *report, bool stands_by);
void board_set_job(struct board *board, int worker, int job, uint64_t input);
void board_set_progress(struct board *board, int worker, int job, const struct message_progress *progress);
void board_set_result(struct board *board, const struct message_result *result);
/* The job on the device is being finished now. */
void board_move_job(struct board *board, int worker);
/* Whether it is to be cancelled; asked for once. */
bool board_take_cancel(struct board *board, int worker, int job);

#endif
