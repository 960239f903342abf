/* text.h - formatted text in fresh memory. */
#ifndef TRELLIS_TEXT_H
#define TRELLIS_TEXT_H

#include <stdarg.h>
#include <stdio.h>

/* NULL: no memory. The caller frees it. */
__attribute__((format(printf, 1, 2))) static inline char *text_format(const char *format, ...)
{
	char *text;
	va_list args;
	va_start(args, format);
	int n = vasprintf(&text, format, args);
	va_end(args);
	return n < 0 ? NULL : text;
}

#endif
