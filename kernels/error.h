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

__attribute__((format(printf, 2, 3))) static inline void error_format(struct error *err, const char *format, ...)
{
	if (err) {
		va_list args;
		va_start(args, format);
		vsnprintf(err->text, sizeof err->text, format, args);
		va_end(args);
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
