/* svc-gate: the only way out for an output (docs/GATE.md). Takes sealed results, inspects and
 * scores them, and releases them sealed to their recipients, holds them for a reviewer, or rejects
 * them. */
#ifndef COFFER_SVC_GATE_GATE_H
#define COFFER_SVC_GATE_GATE_H

#include "common/engine.h"

/* Items of its own: max-result-bytes, unproven-max-bytes, pending-max-bytes, max-pending,
 * released-max-bytes, result-timeout-ms, hold-timeout-ms, released-keep-ms, record-keep-ms.
 * open reads `trust` and the private keys sign.jwk and seal.jwk of `data-dir`; ERR_DENIED when the
 * trust file names other keys. */
extern const struct service_def gate_service;

#endif
