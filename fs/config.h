/* config.h - the options of a job, in text: the one table behind the config file, the -o mount options and the
 * user.trellis.* xattrs. Keys: seed, steps, guidance, formats, simplify, preview.
 *
 *   seed = 42                0..4294967295
 *   steps = default          or S[,L]: steps of the structure and of the latent, 1..1000; one number is for both
 *   guidance = default       or S[,L]: guidance strengths, 0..100; one number is for both
 *   formats = glb            list of glb obj ply stl gaussian.ply, separated by commas or spaces
 *   simplify = 0             0: keep all triangles; 0.1: a tenth of them; 5000: that many
 *   preview = on             on or off: also write NAME.preview.png */
#ifndef FS_CONFIG_H
#define FS_CONFIG_H

#include "error.h"
#include "protocol.h"

/* The formats of a job without its preview. */
#define CONFIG_FORMATS(options) ((options)->outputs & ~(1u << JOB_PREVIEW))

/* Room for every rendered text below. */
#define CONFIG_TEXT_MAX 4096

/* Every key at its default. */
struct job_options config_defaults(void);

/* The i-th key, NULL after the last: "seed", "steps", ... */
const char *config_key(int i);
bool config_has_key(const char *key);

/* Set one option. "default" is a value for every key. False and err (one line naming key, value and what is allowed)
 * leave options unchanged. value: any bytes, length value_len; spaces around it are ignored. */
bool config_set(struct job_options *options, const char *key, const char *value, size_t value_len, struct error *err);

/* One option's value as config_set takes it; key must be one of config_key(). size: CONFIG_TEXT_MAX is enough. */
void config_get(const struct job_options *options, const char *key, char *out, size_t size);

/* Read a whole config file over options: lines `key = value`, blank lines, and comments from '#' to the end of the
 * line. Keys that are not named keep their value, of a key named twice the last counts (so `echo seed=3 > config` and
 * `>> config` both do what they say). All or nothing: on false options are unchanged and err names the line. */
bool config_parse(struct job_options *options, const char *text, size_t text_len, struct error *err);

/* The config file for options, with comments: out gets at most size bytes and a zero. Returns its length. */
size_t config_render(const struct job_options *options, char *out, size_t size);

/* The options without comments, `seed=0 steps=default ...`: equal options give equal text, so it can be part of a job's key.
 * config_parse reads it when a newline stands between them. */
size_t config_line(const struct job_options *options, const char *between, char *out, size_t size);

#endif
