/* test_fs_config.c - the option table: every key's range and text form, and config files as a whole. */
#include "config.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static bool set(struct job_options *o, const char *key, const char *value, struct error *err)
{
	return config_set(o, key, value, strlen(value), err);
}

Test(config, every_accepted_value_reads_back_as_itself)
{
	static const char *const cases[][3] = {
		{"seed", "0", "0"},
		{"seed", "4294967295", "4294967295"},
		{"seed", " 7\n", "7"},
		{"seed", "default", "42"},
		{"steps", "25", "25"},
		{"steps", "12,12", "12"},
		{"steps", "12 , 20", "12,20"},
		{"steps", "default", "default"},
		{"guidance", "7.5", "7.5"},
		{"guidance", "7.5,3", "7.5,3"},
		{"guidance", "0", "0"},
		{"guidance", "0.1", "0.1"},
		{"guidance", "default", "default"},
		{"formats", "glb", "glb"},
		{"formats", "stl, OBJ", "obj,stl"},
		{"formats", "gaussian.ply ply", "ply,gaussian.ply"},
		{"formats", "default", "glb"},
		{"simplify", "0", "0"},
		{"simplify", "0.1", "0.1"},
		{"simplify", "20000", "20000"},
		{"simplify", "1234567", "1234567"},
		{"preview", "off", "off"},
		{"preview", "ON", "on"},
		{"preview", "default", "on"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct job_options o = config_defaults();
		struct error err = {0};
		char text[CONFIG_TEXT_MAX];
		cr_assert(set(&o, cases[i][0], cases[i][1], &err), "%s", err.text);
		cr_expect(job_options_check(&o, &err), "%s", err.text);
		config_get(&o, cases[i][0], text, sizeof text);
		cr_expect_str_eq(text, cases[i][2]);
	}
}

Test(config, a_bad_value_is_one_line_that_names_key_value_and_range_and_changes_nothing)
{
	static const char *const cases[][2] = {
		{"seed", "-1"},
		{"seed", "4294967296"},
		{"seed", "1.5"},
		{"seed", ""},
		{"seed", "0x10"},
		{"seed", "1 2"},
		{"seed", "nan"},
		{"steps", "0"},
		{"steps", "1001"},
		{"steps", "12,"},
		{"steps", ",12"},
		{"steps", "1,2,3"},
		{"steps", "2.5"},
		{"guidance", "-1"},
		{"guidance", "101"},
		{"guidance", "inf"},
		{"formats", ""},
		{"formats", "glb,fbx"},
		{"formats", ","},
		{"formats", "preview.png"},
		{"simplify", "-0.5"},
		{"simplify", "1e10"},
		{"preview", "maybe"},
		{"preview", ""},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct job_options o = config_defaults(), before;
		struct error err = {0};
		o.seed = 99;
		before = o;
		cr_expect_not(set(&o, cases[i][0], cases[i][1], &err), "%s = '%s' was taken", cases[i][0], cases[i][1]);
		cr_expect_eq(memcmp(&o, &before, sizeof o), 0);
		char start[256];
		snprintf(start, sizeof start, "%s = '%s': allowed: ", cases[i][0], cases[i][1]);
		cr_expect_eq(strncmp(err.text, start, strlen(start)), 0, "said: %s", err.text);
	}
	struct job_options o = config_defaults();
	struct error err;
	cr_expect_not(set(&o, "sead", "1", &err));
	cr_expect_str_eq(err.text, "unknown option 'sead'; known: seed, steps, guidance, formats, simplify, preview");
	cr_expect_not(config_set(&o, "seed", "1\0002", 3, &err), "a zero byte was taken");
	cr_expect_not(set(&o, "seed", "1\x1b[31m\n2", &err));
	cr_expect_null(strpbrk(err.text, "\n\x1b"), "control bytes reached the message: %s", err.text);
}

Test(config, formats_and_preview_do_not_disturb_each_other)
{
	struct job_options o = config_defaults();
	cr_assert(set(&o, "preview", "off", NULL) && set(&o, "formats", "stl", NULL));
	cr_expect_eq(o.outputs, 1u << JOB_STL);
	cr_assert(set(&o, "preview", "on", NULL));
	cr_expect_eq(o.outputs, 1u << JOB_STL | 1u << JOB_PREVIEW);
	cr_expect_eq(CONFIG_FORMATS(&o), 1u << JOB_STL);
}

Test(config, a_rendered_file_reads_back_as_the_same_options)
{
	struct job_options o = config_defaults(), again = config_defaults();
	struct error err;
	cr_assert(set(&o, "seed", "43", NULL) && set(&o, "steps", "8,12", NULL) &&
		  set(&o, "guidance", "7.3,0.7", NULL) && set(&o, "formats", "glb,obj,gaussian.ply", NULL) &&
		  set(&o, "simplify", "0.333", NULL));
	char text[CONFIG_TEXT_MAX], line[CONFIG_TEXT_MAX], line_again[CONFIG_TEXT_MAX];
	size_t len = config_render(&o, text, sizeof text);
	cr_assert_eq(len, strlen(text));
	cr_assert(config_parse(&again, text, len, &err), "%s", err.text);
	config_line(&o, " ", line, sizeof line);
	config_line(&again, " ", line_again, sizeof line_again);
	cr_expect_str_eq(line, line_again);
	cr_expect_str_eq(
		line, "seed=43 steps=8,12 guidance=7.3,0.7 formats=glb,obj,gaussian.ply simplify=0.333 preview=on");
	/* Defaults survive the same way. */
	struct job_options defaults = config_defaults();
	len = config_render(&defaults, text, sizeof text);
	cr_assert(config_parse(&again, text, len, &err), "%s", err.text);
	cr_expect_eq(memcmp(&again, &defaults, sizeof again), 0);
}

Test(config, a_file_keeps_what_it_does_not_name_and_the_last_of_a_key_counts)
{
	struct job_options o = config_defaults();
	struct error err;
	static const char text[] = "\n# a comment\n  seed=1\r\nsteps = 30 # more\nseed = 2";
	cr_assert(set(&o, "simplify", "0.5", NULL));
	cr_assert(config_parse(&o, text, sizeof text - 1, &err), "%s", err.text);
	cr_expect_eq(o.seed, 2);
	cr_expect_eq(o.structure_steps, 30);
	cr_expect_float_eq(o.simplify, 0.5f, 0);
	cr_expect(config_parse(&o, "", 0, &err));
}

Test(config, a_file_is_taken_whole_or_not_at_all)
{
	static const struct {
		const char *text, *said;
	} cases[] = {
		{"seed = 5\nsteps = 0\n", "config line 2: steps = '0': allowed: default, or S or S,L from 1 to 1000"},
		{"seed = 5\nhello\n", "config line 2: 'hello' is not key = value"},
		{"seed = 5\n= 3\n",
			"config line 2: unknown option ''; known: seed, steps, guidance, formats, simplify, preview"},
		{"a_key_that_is_much_longer_than_any_of_ours = 3",
			"config line 1: unknown option 'a_key_that_is_much_longer_than_any_of_ours'"},
	};
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct job_options o = config_defaults(), before = o;
		struct error err = {0};
		cr_expect_not(config_parse(&o, cases[i].text, strlen(cases[i].text), &err));
		cr_expect_str_eq(err.text, cases[i].said);
		cr_expect_eq(memcmp(&o, &before, sizeof o), 0);
	}
}

Test(config, small_buffers_are_cut_and_terminated)
{
	struct job_options o = config_defaults();
	char text[20];
	cr_expect_eq(config_render(&o, text, sizeof text), sizeof text - 1);
	cr_expect_eq(strlen(text), sizeof text - 1);
	cr_expect_eq(config_line(&o, " ", text, sizeof text), sizeof text - 1);
	cr_expect_eq(strlen(text), sizeof text - 1);
}
