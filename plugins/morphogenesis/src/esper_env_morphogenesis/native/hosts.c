/* Trains and validates the hosts of the morphogenesis environment: the same arithmetic as stacked.py, without copies.
 *
 * A vector holds one value of 16 signals, so a feature map is CHANNELS x POSITIONS vectors, which fit into the first cache
 * with all that a module needs. One host is trained to the end of its epoch before the next: nothing is gathered, and a
 * dead block costs nothing. Gradients are kept per signal lane and added up once for each minibatch. Layouts are those of
 * host.py and blueprints/: change them together.
 */
#include "modules.h"

typedef struct {
    int32_t kind; /* -1: no module */
    int32_t flags;
    float alpha;
} graft;

typedef struct {
    vf input[POS * PATCH];
    map h[SLOTS + 1];  /* features before and after each slot */
    map block[SLOTS];  /* what the slot's block added */
    map gradient, below, module;
    saved saved[SLOTS];
    vf logits[CLASSES];
    vf host[HOST], modules[SLOTS][MODULE]; /* gradients per lane */
} work;

/* 16 signals into lanes, each in the host's order; lanes past the end repeat the first. */
static void gather(const float *x, const int64_t *signals, int start, int count, const int64_t *order, vf *input) {
    float *to = (float *)input;
    EACH(t, LANES) {
        int at = start + (t < count ? t : 0);
        const float *from = x + (signals ? signals[at] : at) * POS * PATCH;
        EACH(k, POS * PATCH) to[k * LANES + t] = from[order[k]];
    }
}

static void forward(work *s, const float *host, const float *modules, const graft *grafts, const float *alive,
                    int training) {
    EACH(c, CH) EACH(p, POS) {
        vf sum = splat(host[PATCH_BIAS + c]);
        EACH(k, PATCH) sum += splat(host[c * PATCH + k]) * s->input[p * PATCH + k];
        s->h[0][c][p] = positive(sum, sum);
    }
    EACH(slot, SLOTS) {
        const float *w = host + BLOCKS + slot * BLOCK;
        const graft *g = grafts + slot;
        vf *block = &s->block[slot][0][0], *out = &s->h[slot + 1][0][0];
        if (alive[slot] != 0.0f) {
            mix(w, w + CH * CH, s->h[slot], s->block[slot]);
            EACH(k, FLAT) out[k] = block[k] = positive(block[k], block[k]);
        } else {
            memset(out, 0, sizeof(map));
        }
        int adds = g->kind >= 0 && !(g->flags & DETACHED);
        if (adds || (training && g->kind >= 0)) {
            module_forward(g->kind, modules + slot * MODULE, s->h[slot], s->module, &s->saved[slot]);
            if (adds) EACH(k, FLAT) out[k] += splat(g->alpha) * (&s->module[0][0])[k];
        }
    }
    const vf *last = &s->h[SLOTS][0][0];
    EACH(c, CLASSES) {
        vf sum = splat(host[OUT_BIAS + c]), more = splat(0.0f);
        for (int k = 0; k < FLAT; k += 2) {
            sum += splat(host[OUT + c * FLAT + k]) * last[k];
            more += splat(host[OUT + c * FLAT + k + 1]) * last[k + 1];
        }
        s->logits[c] = sum + more;
    }
}

/* Cross-entropy of the first count lanes, summed; the logits become probabilities. */
static float softmax(work *s, const int64_t *labels, int count) {
    vf most = s->logits[0], sum = splat(0.0f);
    float right[LANES] = {0}, sums[LANES], loss = 0.0f;
    EACH(c, CLASSES) most = larger(most, s->logits[c]);
    EACH(c, CLASSES) s->logits[c] -= most;
    EACH(t, count) right[t] = ((float *)&s->logits[labels[t]])[t];
    EACH(c, CLASSES) {
        s->logits[c] = exponential(s->logits[c]);
        sum += s->logits[c];
    }
    memcpy(sums, &sum, sizeof sums);
    EACH(t, count) loss += logf(sums[t]) - right[t];
    EACH(c, CLASSES) s->logits[c] /= sum;
    return loss;
}

static void backward(work *s, const float *host, const float *modules, const graft *grafts, const float *alive) {
    const vf *last = &s->h[SLOTS][0][0];
    vf *g = &s->gradient[0][0];
    EACH(c, CLASSES) s->host[OUT_BIAS + c] += s->logits[c];
    EACH(k, FLAT) {
        vf sum = splat(0.0f), feature = last[k];
        EACH(c, CLASSES) {
            sum += splat(host[OUT + c * FLAT + k]) * s->logits[c];
            s->host[OUT + c * FLAT + k] += s->logits[c] * feature;
        }
        g[k] = sum;
    }
    for (int slot = SLOTS - 1; slot >= 0; slot--) {
        const graft *t = grafts + slot;
        const float *w = host + BLOCKS + slot * BLOCK;
        vf *to = s->host + BLOCKS + slot * BLOCK, *block = &s->block[slot][0][0], *module = &s->module[0][0];
        int detached = t->flags & DETACHED, frozen = t->flags & FROZEN;
        memset(s->below, 0, sizeof(map));
        if (t->kind >= 0) {
            vf scale = splat(detached ? 1.0f : t->alpha);
            EACH(k, FLAT) module[k] = g[k] * scale;
            module_backward(t->kind, modules + slot * MODULE, s->h[slot], s->module, &s->saved[slot],
                            frozen ? NULL : s->modules[slot], detached ? NULL : s->below);
        }
        if (alive[slot] != 0.0f) {
            EACH(k, FLAT) block[k] = positive(g[k], block[k]);
            mix_weight(s->block[slot], s->h[slot], to, to + CH * CH);
            mix_input(w, s->block[slot], s->below);
        } else if (t->kind < 0 || detached) {
            return; /* nothing passes: every layer below has gradient 0 */
        }
        memcpy(s->gradient, s->below, sizeof(map));
    }
    EACH(c, CH) EACH(p, POS) {
        vf up = positive(s->gradient[c][p], s->h[0][c][p]);
        s->host[PATCH_BIAS + c] += up;
        EACH(k, PATCH) s->host[c * PATCH + k] += up * s->input[p * PATCH + k];
    }
}

/* One step of Adam; the lanes' gradients are added up and cleared. */
static void adam(vf *lanes, int size, float *theta, float *first, float *second, float *age, float rate) {
    const float beta1 = 0.9f, beta2 = 0.99f;
    float gradient[MODULE > HOST ? MODULE : HOST];
    *age += 1.0f;
    float step = rate * sqrtf(1.0f - powf(beta2, *age)) / (1.0f - powf(beta1, *age));
    EACH(i, size) gradient[i] = total(lanes[i]);
    memset(lanes, 0, size * sizeof(vf));
    EACH(i, size) {
        float g = gradient[i];
        first[i] += (1.0f - beta1) * (g - first[i]);
        second[i] = beta2 * second[i] + (1.0f - beta2) * g * g;
        theta[i] -= step * first[i] / (sqrtf(second[i]) + 1e-8f);
    }
}

/* The number of floats of a host and of a module: the caller compares them with its own. */
int esper_host_size(void) { return HOST; }
int esper_module_size(void) { return MODULE; }

/* Train n hosts for one epoch. x float32 (., 40), y int64 (.,), signals int64 (batches, batch), order int64 (n, 40), alive
 * float32 (n, 3), grafts (n, 3), host float32 (3, n, HOST), modules float32 (3, n, 3, MODULE), ages float32 (n,) and (n, 3),
 * loss float32 (n,). Returns 0, or 1 when memory is short. */
int esper_train(int n, int batches, int batch, float rate, const float *x, const int64_t *y, const int64_t *signals,
                const int64_t *order, const float *alive, const graft *grafts, float *host, float *modules,
                float *host_age, float *module_age, float *loss) {
    work *s = aligned_alloc(64, sizeof(work));
    if (!s) return 1;
    memset(s, 0, sizeof *s);
    const int64_t hosts = (int64_t)n * HOST, all = (int64_t)n * SLOTS * MODULE;
    EACH(row, n) {
        float *mine = host + (int64_t)row * HOST, *grown = modules + (int64_t)row * SLOTS * MODULE, sum = 0.0f;
        const graft *here = grafts + row * SLOTS;
        EACH(b, batches) {
            const int64_t *chosen = signals + (int64_t)b * batch;
            float batch_loss = 0.0f;
            for (int start = 0; start < batch; start += LANES) {
                int count = batch - start < LANES ? batch - start : LANES;
                int64_t labels[LANES] = {0};
                EACH(t, count) labels[t] = y[chosen[start + t]];
                gather(x, chosen, start, count, order + row * POS * PATCH, s->input);
                forward(s, mine, grown, here, alive + row * SLOTS, 1);
                batch_loss += softmax(s, labels, count);
                EACH(t, count)((float *)&s->logits[labels[t]])[t] -= 1.0f;
                EACH(c, CLASSES) {
                    s->logits[c] /= splat((float)batch);
                    for (int t = count; t < LANES; t++) ((float *)&s->logits[c])[t] = 0.0f;
                }
                backward(s, mine, grown, here, alive + row * SLOTS);
            }
            adam(s->host, HOST, mine, mine + hosts, mine + 2 * hosts, host_age + row, rate);
            EACH(slot, SLOTS) if (here[slot].kind >= 0 && !(here[slot].flags & FROZEN)) {
                float *m = grown + slot * MODULE;
                adam(s->modules[slot], SIZES[here[slot].kind], m, m + all, m + 2 * all, module_age + row * SLOTS + slot,
                     rate);
            }
            sum += batch_loss / (float)batch;
        }
        loss[row] = sum / (float)batches;
    }
    free(s);
    return 0;
}

/* The participation ratio of the channels' variances. */
static float participation(double sum[CH], double square[CH], double count) {
    double all = 0.0, squares = 0.0;
    EACH(c, CH) {
        double mean = sum[c] / count, variance = square[c] / count - mean * mean;
        all += variance;
        squares += variance * variance;
    }
    return (float)(all * all / (CH * squares + 1e-12));
}

/* Measure some rows on size signals; probe float32 (8, 16); results float32, (n,), (n,), (n, 3), (n, 3). */
int esper_validate(int count, const int64_t *rows, int n, int size, const float *x, const int64_t *y,
                   const int64_t *order, const float *alive, const graft *grafts, const float *host,
                   const float *modules, const float *probe, float *accuracy, float *loss, float *spread,
                   float *response) {
    (void)n;
    work *s = aligned_alloc(64, sizeof(work));
    if (!s) return 1;
    memset(s, 0, sizeof *s);
    EACH(each, count) {
        const int64_t row = rows[each];
        const float *mine = host + row * HOST, *lives = alive + row * SLOTS;
        double sum[SLOTS][CH] = {{0}}, square[SLOTS][CH] = {{0}}, lost = 0.0;
        float origin[SLOTS][CH]; /* variances are taken around the first value: exactly 0 where all are equal */
        int right = 0;
        for (int start = 0; start < size; start += LANES) {
            int here = size - start < LANES ? size - start : LANES;
            gather(x, NULL, start, here, order + row * POS * PATCH, s->input);
            forward(s, mine, modules + row * SLOTS * MODULE, grafts + row * SLOTS, lives, 0);
            EACH(slot, SLOTS) EACH(c, CH) {
                vf a = splat(0.0f), b = splat(0.0f);
                float first[LANES], second[LANES];
                if (start == 0) origin[slot][c] = ((float *)&s->h[slot + 1][c][0])[0];
                EACH(p, POS) {
                    vf value = s->h[slot + 1][c][p] - splat(origin[slot][c]);
                    a += value;
                    b += value * value;
                }
                memcpy(first, &a, sizeof a), memcpy(second, &b, sizeof b);
                EACH(t, here) sum[slot][c] += first[t], square[slot][c] += second[t];
            }
            EACH(t, here) {
                int best = 0;
                EACH(c, CLASSES) if (((float *)&s->logits[c])[t] > ((float *)&s->logits[best])[t]) best = c;
                right += best == y[start + t];
            }
            lost += softmax(s, y + start, here);
        }
        accuracy[row] = (float)right / (float)size;
        loss[row] = (float)(lost / size);
        EACH(slot, SLOTS) {
            const float *w = mine + BLOCKS + slot * BLOCK;
            int varies = 0;
            spread[row * SLOTS + slot] = participation(sum[slot], square[slot], (double)size * POS);
            if (lives[slot] != 0.0f) EACH(o, CH) {
                float answer[LANES], mean = 0.0f, variance = 0.0f;
                EACH(t, LANES) {
                    float value = w[CH * CH + o];
                    EACH(i, CH) value += w[o * CH + i] * probe[i * LANES + t];
                    answer[t] = value > 0.0f ? value : 0.0f;
                    mean += answer[t] / LANES;
                }
                EACH(t, LANES) variance += (answer[t] - mean) * (answer[t] - mean) / (LANES - 1);
                varies += variance > 1e-6f;
            }
            response[row * SLOTS + slot] = (float)varies / CH;
        }
    }
    free(s);
    return 0;
}
