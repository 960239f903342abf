/* board.c - see board.h. */
#include "board.h"

#include <stdio.h>
#include <string.h>

#define S INT64_C(1000000000)
enum { PROBLEMS_MAX = sizeof((struct scheduler_report *)0)->problems / sizeof(struct scheduler_problem) };

void board_init(struct board *board)
{
	*board = (struct board){.report.n_workers = 1};
	pthread_mutex_init(&board->lock, NULL);
}

void board_finish(struct board *board)
{
	pthread_mutex_destroy(&board->lock);
}

void board_read(struct board *board, struct scheduler_report *report)
{
	pthread_mutex_lock(&board->lock);
	const int64_t now = fs_monotonic_ns();
	memcpy(report, &board->report, offsetof(struct scheduler_report, workers));
	for (int i = 0; i < board->report.n_workers; i++) {
		struct scheduler_worker *worker = &report->workers[i];
		*worker = board->report.workers[i];
		if (board->more[i].retry_ns > now)
			worker->worker.retry_s = (int)((board->more[i].retry_ns - now) / S);
		for (int k = 0; k < 2; k++)
			worker->jobs[k].running_s =
				worker->jobs[k].input ? (double)(now - board->more[i].started_ns[k]) / 1e9 : 0;
	}
	pthread_mutex_unlock(&board->lock);
}

bool board_has_idle_worker(struct board *board)
{
	bool idle = false;
	pthread_mutex_lock(&board->lock);
	for (int i = 0; i < board->report.n_workers; i++) {
		const struct scheduler_worker *w = &board->report.workers[i];
		idle |= !w->stands_by && w->worker.state == WORKER_READY && !w->jobs[0].input;
	}
	pthread_mutex_unlock(&board->lock);
	return idle;
}

void board_ask_cancel(struct board *board, uint64_t input)
{
	pthread_mutex_lock(&board->lock);
	for (int i = 0; i < 2 * board->report.n_workers; i++)
		if (board->report.workers[i / 2].jobs[i % 2].input == input)
			board->more[i / 2].cancel[i % 2] = true;
	pthread_mutex_unlock(&board->lock);
}

void board_add_problem(struct board *board, uint64_t input, const char *name, const char *text)
{
	struct scheduler_report *r = &board->report;
	pthread_mutex_lock(&board->lock);
	memmove(&r->problems[1], &r->problems[0], sizeof r->problems - sizeof r->problems[0]);
	r->problems[0] = (struct scheduler_problem){.input = input, .when = time(NULL)};
	snprintf(r->problems[0].name, sizeof r->problems[0].name, "%s", name);
	snprintf(r->problems[0].text, sizeof r->problems[0].text, "%s", text);
	if (r->n_problems < PROBLEMS_MAX)
		r->n_problems++;
	pthread_mutex_unlock(&board->lock);
}

void board_forget_problems(struct board *board, uint64_t input)
{
	struct scheduler_report *r = &board->report;
	int n = 0;
	pthread_mutex_lock(&board->lock);
	for (int i = 0; i < r->n_problems; i++)
		if (r->problems[i].input != input)
			r->problems[n++] = r->problems[i];
	r->n_problems = n;
	pthread_mutex_unlock(&board->lock);
}

void board_set_notice(struct board *board, const char *text)
{
	pthread_mutex_lock(&board->lock);
	snprintf(board->report.notice, sizeof board->report.notice, "%s", text);
	pthread_mutex_unlock(&board->lock);
}

void board_set_publishing(struct board *board, uint64_t input)
{
	pthread_mutex_lock(&board->lock);
	board->report.publishing = input;
	pthread_mutex_unlock(&board->lock);
}

void board_set_worker(struct board *board, int worker, const struct worker_report *report, bool stands_by)
{
	pthread_mutex_lock(&board->lock);
	struct scheduler_worker *w = &board->report.workers[worker];
	if (worker >= board->report.n_workers)
		board->report.n_workers = worker + 1;
	w->stands_by = stands_by;
	w->worker = *report;
	board->more[worker].retry_ns = fs_monotonic_ns() + report->retry_s * S;
	pthread_mutex_unlock(&board->lock);
}

void board_set_job(struct board *board, int worker, int job, uint64_t input)
{
	pthread_mutex_lock(&board->lock);
	board->report.workers[worker].jobs[job] = (struct scheduler_job){.input = input, .progress.eta_s = -1};
	board->more[worker].started_ns[job] = fs_monotonic_ns();
	board->more[worker].cancel[job] = false;
	pthread_mutex_unlock(&board->lock);
}

void board_set_progress(struct board *board, int worker, int job, const struct message_progress *progress)
{
	pthread_mutex_lock(&board->lock);
	board->report.workers[worker].jobs[job].progress = *progress;
	pthread_mutex_unlock(&board->lock);
}

void board_set_result(struct board *board, const struct message_result *result)
{
	pthread_mutex_lock(&board->lock);
	board->report.last_s = result->seconds;
	memcpy(board->report.cutout, result->cutout, sizeof board->report.cutout);
	pthread_mutex_unlock(&board->lock);
}

void board_move_job(struct board *board, int worker)
{
	pthread_mutex_lock(&board->lock);
	struct scheduler_job *jobs = board->report.workers[worker].jobs;
	jobs[1] = jobs[0];
	jobs[0] = (struct scheduler_job){0};
	board->more[worker].started_ns[1] = board->more[worker].started_ns[0];
	board->more[worker].cancel[1] = board->more[worker].cancel[0];
	board->more[worker].cancel[0] = false;
	pthread_mutex_unlock(&board->lock);
}

bool board_take_cancel(struct board *board, int worker, int job)
{
	pthread_mutex_lock(&board->lock);
	bool cancel = board->more[worker].cancel[job];
	board->more[worker].cancel[job] = false;
	pthread_mutex_unlock(&board->lock);
	return cancel;
}
