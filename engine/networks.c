/* networks.c - the networks of a model on their device. See networks.h. */
#include "networks.h"

#include "model_tensors.h"
#include "stages.h"
#include "weights.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RESIDENT_BYTES = 1 << 29, NONE = -1, STARTING = ROLE_COUNT };

struct networks {
	const struct model *model;
	struct backend *backend;
	bool stay;		  /* written under the lock, by the job's thread, which alone reads it without */
	double bytes[ROLE_COUNT]; /* of the weights that stay while a network is loaded */
	void *loaded[ROLE_COUNT]; /* the job's thread's */

	/* Loading ahead. */
	bool may_ahead, has_thread;
	double limit; /* bytes */
	pthread_t thread;
	atomic_bool stop; /* the helper's cancellation */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* under the lock */
	bool quit, failed;	 /* failed: there is no helper */
	unsigned wanted;	 /* to be loaded: 1 << role */
	int loading, needed;	 /* role at work, or the helper is being made; role that the job waits for */
	void *ahead[ROLE_COUNT]; /* loaded, not taken yet */
	double used;		 /* bytes of what is loaded, ahead and at work */
	struct sampler_config structure, latent;
};

/* ---- one network ---- */

static void *create(enum model_role role, struct run *run, const struct checkpoint *c, struct error *err)
{
	switch (role) {
	case ROLE_ENCODER:
		return image_encoder_create(run, c, err);
	case ROLE_STRUCTURE_FLOW:
		return structure_flow_create(run, c, err);
	case ROLE_STRUCTURE_DECODER:
		return structure_decoder_create(run, c, err);
	case ROLE_LATENT_FLOW:
		return latent_flow_create(run, c, err);
	case ROLE_MESH_DECODER:
		return mesh_decoder_create(run, c, err);
	case ROLE_GAUSSIAN_DECODER:
		return gaussian_decoder_create(run, c, err);
	case ROLE_COUNT:
		break;
	}
	return NULL;
}

static void destroy(enum model_role role, void *network)
{
	switch (role) {
	case ROLE_ENCODER:
		image_encoder_destroy(network);
		break;
	case ROLE_STRUCTURE_FLOW:
		structure_flow_destroy(network);
		break;
	case ROLE_STRUCTURE_DECODER:
		structure_decoder_destroy(network);
		break;
	case ROLE_LATENT_FLOW:
		latent_flow_destroy(network);
		break;
	case ROLE_MESH_DECODER:
		mesh_decoder_destroy(network);
		break;
	case ROLE_GAUSSIAN_DECODER:
		gaussian_decoder_destroy(network);
		break;
	case ROLE_COUNT:
		break;
	}
}

/* The modulations of the flows' blocks depend on the time only: they are computed before sampling, and their weights leave
 * again. */
static void drop_leaving(void *user, const char *name, int ndim, const int64_t *dim, bool required)
{
	double *staying = user, n = required && strstr(name, "adaLN_modulation");
	for (int i = 0; i < ndim; i++)
		n *= (double)dim[i];
	*staying -= n;
}

double networks_numbers(const struct networks *n, enum model_role role)
{
	const struct checkpoint *c = n->model->roles[role];
	if (!c)
		return 0;
	double count = (double)model_tensors_parameters(c);
	model_tensors_list(c, drop_leaving, &count);
	return count;
}

/* ---- the thread that loads ahead ---- */

/* What it is to load now; under the lock. What the job waits for comes first and regardless of room; the rest in order,
 * as far as there is room. */
static int next_role(const struct networks *n)
{
	if (n->needed != NONE && n->wanted & 1u << n->needed)
		return n->needed;
	for (int role = 0; role < ROLE_COUNT; role++)
		if (n->wanted & 1u << role)
			return n->stay || n->used == 0 || n->used + n->bytes[role] <= n->limit ? role : NONE;
	return NONE;
}

/* Complete on the device, or NULL. */
static void *load_ahead(struct networks *n, struct run *run, enum model_role role,
	const struct sampler_config *structure, const struct sampler_config *latent)
{
	void *network = create(role, run, n->model->roles[role], NULL);
	bool ok = network != NULL;
	if (ok && role == ROLE_STRUCTURE_FLOW)
		ok = structure_flow_prepare(run, network, structure, NULL);
	if (ok && role == ROLE_LATENT_FLOW)
		ok = latent_flow_prepare(run, network, latent, NULL);
	if (!backend_finish(run->b, NULL))
		ok = false;
	if (!ok && network)
		destroy(role, network);
	scratch_trim(run->b);
	return ok ? network : NULL;
}

/* A tensor was loaded: whoever waits sees that something moves. */
static void note_tensor(void *user, int64_t numbers)
{
	struct networks *n = user;
	(void)numbers;
	pthread_mutex_lock(&n->lock);
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
}

/* Wait for something to do; NONE: the end. Under the lock. */
static int wait_for_work(struct networks *n)
{
	int role = NONE;
	while (!n->quit && (role = next_role(n)) == NONE)
		pthread_cond_wait(&n->changed, &n->lock);
	return role;
}

static void *run_thread(void *user)
{
	struct networks *n = user;
	struct run run;
	struct backend *helper = n->backend->ops->helper(n->backend, NULL);
	int role;

	if (helper) {
		run_init(&run, helper, NULL, NULL);
		helper->cancel = &n->stop;
		helper->loaded = note_tensor;
		helper->loaded_user = n;
	}
	pthread_mutex_lock(&n->lock);
	n->failed = !helper;
	n->loading = NONE;
	pthread_cond_broadcast(&n->changed);
	while (helper && (role = wait_for_work(n)) != NONE) {
		struct sampler_config structure = n->structure, latent = n->latent;
		n->loading = role;
		n->wanted &= ~(1u << role);
		n->used += n->bytes[role];
		pthread_mutex_unlock(&n->lock);
		void *network = load_ahead(n, &run, (enum model_role)role, &structure, &latent);
		pthread_mutex_lock(&n->lock);
		n->loading = NONE;
		n->ahead[role] = network;
		if (!network)
			n->used -= n->bytes[role];
		pthread_cond_broadcast(&n->changed);
	}
	pthread_mutex_unlock(&n->lock);
	backend_destroy(helper);
	return NULL;
}

void networks_ahead(
	struct networks *n, unsigned roles, const struct sampler_config *structure, const struct sampler_config *latent)
{
	if (n->may_ahead && !n->has_thread) {
		n->loading = STARTING;
		n->has_thread = pthread_create(&n->thread, NULL, run_thread, n) == 0;
		n->may_ahead = n->has_thread;
	}
	if (!n->may_ahead)
		return;
	pthread_mutex_lock(&n->lock);
	for (int role = 0; role < ROLE_COUNT; role++)
		if (n->model->roles[role] && !n->loaded[role] && !n->ahead[role] && n->loading != role)
			n->wanted |= roles & 1u << role;
	n->structure = *structure;
	n->latent = *latent;
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
}

/* ---- the job's side ---- */

static void account(struct networks *n, double bytes)
{
	pthread_mutex_lock(&n->lock);
	n->used += bytes;
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
}

static bool will_come(const struct networks *n, enum model_role role)
{
	return !n->failed && (n->wanted & 1u << role || n->loading == (int)role);
}

/* The network if it was loaded ahead, once it is there; NULL: it was not, or the job was cancelled meanwhile. Progress is
 * told when there is some: a device that hangs is found by its silence. */
static void *take_ahead(struct networks *n, enum model_role role, struct run *run)
{
	pthread_mutex_lock(&n->lock);
	while (!n->ahead[role] && will_come(n, role) && backend_ok(run->b)) {
		n->needed = (int)role;
		pthread_cond_broadcast(&n->changed);
		pthread_cond_wait(&n->changed, &n->lock);
		pthread_mutex_unlock(&n->lock);
		run_worked(run, 0); /* which may cancel it */
		pthread_mutex_lock(&n->lock);
	}
	n->needed = NONE;
	n->wanted &= ~(1u << role);
	void *network = n->ahead[role];
	n->ahead[role] = NULL;
	pthread_mutex_unlock(&n->lock);
	if (network)
		stage_hand_over(network, n->backend);
	return network;
}

void *networks_get(struct networks *n, enum model_role role, struct run *run, struct error *err)
{
	if (!n->loaded[role])
		n->loaded[role] = take_ahead(n, role, run);
	if (!n->loaded[role]) {
		account(n, n->bytes[role]); /* before, so that nothing else takes the room */
		n->loaded[role] = create(role, run, n->model->roles[role], err);
		if (!n->loaded[role])
			account(n, -n->bytes[role]);
	}
	return n->loaded[role];
}

static void release(struct networks *n, enum model_role role)
{
	if (!n->loaded[role])
		return;
	destroy(role, n->loaded[role]);
	n->loaded[role] = NULL;
	scratch_trim(n->backend); /* which waits for the device */
	account(n, -n->bytes[role]);
}

void networks_done(struct networks *n, enum model_role role)
{
	if (!n->stay)
		release(n, role);
}

static void release_all(struct networks *n)
{
	for (int role = 0; role < ROLE_COUNT; role++)
		release(n, (enum model_role)role);
	scratch_trim(n->backend);
}

void networks_stop(struct networks *n)
{
	if (!n->has_thread)
		return;
	atomic_store(&n->stop, true);
	pthread_mutex_lock(&n->lock);
	n->wanted = 0;
	while (n->loading != NONE)
		pthread_cond_wait(&n->changed, &n->lock);
	pthread_mutex_unlock(&n->lock);
	atomic_store(&n->stop, false);
	for (int role = 0; role < ROLE_COUNT; role++)
		if (n->ahead[role]) {
			stage_hand_over(n->ahead[role], n->backend);
			n->loaded[role] = n->ahead[role];
			n->ahead[role] = NULL;
		}
	if (!n->stay)
		release_all(n);
}

/* What the helper has made is gone before it. */
static void end_thread(struct networks *n)
{
	if (!n->has_thread)
		return;
	pthread_mutex_lock(&n->lock);
	n->quit = true;
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->thread, NULL);
	n->has_thread = n->may_ahead = false;
}

bool networks_shrink(struct networks *n)
{
	pthread_mutex_lock(&n->lock);
	bool gives = n->stay || n->used > 0;
	pthread_mutex_unlock(&n->lock);
	networks_stop(n);
	pthread_mutex_lock(&n->lock);
	n->stay = n->may_ahead = false;
	pthread_mutex_unlock(&n->lock);
	release_all(n);
	end_thread(n);
	return gives;
}

/* ---- life ---- */

bool networks_stay(const struct networks *n)
{
	return n->stay;
}

bool networks_load_ahead(const struct networks *n)
{
	return n->may_ahead;
}

void networks_let_leave(struct networks *n)
{
	pthread_mutex_lock(&n->lock);
	n->stay = false;
	pthread_mutex_unlock(&n->lock);
}

struct networks *networks_create(const struct model *m, struct backend *b, uint64_t free_bytes)
{
	struct networks *n = calloc(1, sizeof *n);
	double bytes = 0;

	if (!n)
		return NULL;
	n->model = m;
	n->backend = b;
	for (int role = 0; role < ROLE_COUNT; role++)
		bytes += n->bytes[role] = networks_numbers(n, (enum model_role)role) * (double)dtype_size(b->act);
	/* On the CPU those of a small model stay; on a GPU when as much again is free for activations (TRELLIS-image-large
	 * in half precision: 2.4 GB, and about 2 GB to work in). */
	n->stay = free_bytes ? 2 * bytes <= (double)free_bytes : bytes <= RESIDENT_BYTES;
	n->limit = (double)free_bytes / 2 < NETWORKS_AHEAD_BYTES ? (double)free_bytes / 2 : NETWORKS_AHEAD_BYTES;
	n->may_ahead = b->ops->helper != NULL;
	n->loading = n->needed = NONE;
	atomic_init(&n->stop, false);
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->changed, NULL);
	return n;
}

void networks_destroy(struct networks *n)
{
	if (!n)
		return;
	networks_stop(n);
	release_all(n);
	end_thread(n);
	pthread_cond_destroy(&n->changed);
	pthread_mutex_destroy(&n->lock);
	free(n);
}
