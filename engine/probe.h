/* probe.h - whether a device works, found out by letting it compute. A driver that answers questions proves nothing. */
#ifndef TRELLIS_PROBE_H
#define TRELLIS_PROBE_H

#include "backend.h"

/* Allocate, multiply, run our own kernels on small inputs and compare the results with the oracle. The backend is as
 * before afterwards. False: one sentence on what went wrong. */
bool probe_backend(struct backend *b, struct error *err);

/* Measured speed of a matrix product [n, n] x [n, n], floating-point operations a second; 0 when it failed. */
double probe_product_rate(struct backend *b, int n);

#endif
