// See loss_scale.h. The numbers are those of common practice (Micikevicius et al., 2018, and PyTorch's defaults).
#include "optim/loss_scale.h"

enum { DOUBLE_AFTER = 2000 };
static const double first = 65536, most = 16777216, least = 1;

void ls_loss_scale_begin(struct ls_loss_scale *s) { *s = (struct ls_loss_scale){.scale = first}; }

bool ls_loss_scale_step(struct ls_loss_scale *s, bool overflow) {
  if (!overflow) {
    if (++s->good_steps < DOUBLE_AFTER) return true;
    s->good_steps = 0;
    if (s->scale < most) s->scale *= 2;
    return true;
  }
  s->skipped++;
  s->good_steps = 0;
  if (s->scale <= least) return false;
  s->scale /= 2;
  return true;
}
