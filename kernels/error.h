/* error.h - one error message, owned by the caller, written by the deepest failure.
 * Every function that can fail takes `struct error *err` last and returns false or NULL after filling it in.
 * The text is one line, without a final newline, and names the file, tensor or option, what was wanted and what was
 * found. Callers pass it up unchanged. */
#ifndef TRELLIS_ERROR_H
#define TRELLIS_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

struct error {
	char text[1024]; /* empty: no error */
};

/* Make text one line that is safe to print: names in it come from files, and neither break the line nor talk to a terminal. A
 * control character (also those of Latin-1 in UTF-8) becomes question marks. */
static inline void error_one_line(char *text)
{
	for (unsigned char *c = (unsigned char *)text; *c; c++)
		if (*c < 0x20 || *c == 0x7f || (*c == 0xc2 && c[1] >= 0x80 && c[1] < 0xa0)) {
			if (*c == 0xc2)
				*c++ = '?';
			*c = '?';
		}
}

__attribute__((format(printf, 2, 3))) static inline void error_format(struct error *err, const char *format, ...)
{
	if (err) {
		va_list args;
		va_start(args, format);
		vsnprintf(err->text, sizeof err->text, format, args);
		va_end(args);
		error_one_line(err->text);
	}
}

/* Fill in err (which may be NULL) and be false, so that `return error_set(err, ...)` reads well. A macro so that the
 * compiler sees the constant: it then knows that outputs are set wherever a function returned true. */
#define error_set(err, ...)                                                                                            \
	({                                                                                                             \
		error_format(err, __VA_ARGS__);                                                                        \
		false;                                                                                                 \
	})

#endif
