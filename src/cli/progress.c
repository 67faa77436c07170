// A job's progress while it runs.
//
// On a terminal, one line that is drawn again and again, and above it what is worth keeping:
//   epoch 1  validation accuracy 84.11 %  loss 0.4321
//   epoch 2/10  ━━━━━╸──────────  step 352/2,350  loss 0.4123  accuracy 85.21 %  6,120 images/s  0:29 left  input 0.1 %, compute 99.9 %
// Elsewhere (a file, a pipe) plain lines: those above, and a step line at most every STEP_LINE_S seconds of the job's
// time and at the end of each epoch.
#include <langinfo.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "cli/cli.h"

enum { STEP_LINE_S = 5, MIN_BAR = 8, MAX_BAR = 40 };

struct ls_progress {
  FILE *out;
  bool terminal, utf8;
  bool drawn;  // a bar stands on the last line
  uint64_t total_steps;
  int64_t line_time_us;  // of the last plain step line
  double line_epoch;
};

struct ls_progress *ls_progress_new(FILE *out, uint64_t total_steps) {
  struct ls_progress *progress = calloc(1, sizeof *progress);
  if (!progress) return NULL;
  progress->out = out;
  progress->terminal = ls_cli_is_terminal(out);
  progress->utf8 = strcmp(nl_langinfo(CODESET), "UTF-8") == 0;
  progress->total_steps = total_steps;
  return progress;
}

static void erase(struct ls_progress *progress) {
  if (progress->drawn) fputs("\r\033[K", progress->out);
  progress->drawn = false;
}

void ls_progress_free(struct ls_progress *progress) {
  if (!progress) return;
  if (progress->drawn) fputc('\n', progress->out);
  fflush(progress->out);
  free(progress);
}

void ls_progress_say(struct ls_progress *progress, const char *format, ...) {
  if (!progress) return;
  erase(progress);
  va_list args;
  va_start(args, format);
  vfprintf(progress->out, format, args);
  va_end(args);
  fputc('\n', progress->out);
  fflush(progress->out);
}

static int columns(FILE *out) {
  struct winsize size;
  if (ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

// "epoch 2/10". An epoch rarely is a whole number of steps: the step that holds its last images ends it.
static void format_epoch(char *text, size_t size, const struct ls_progress *progress,
                         const Lockstep__V1__StepReport *step) {
  double steps_per_epoch = step->epoch > 0 ? (double)step->step / step->epoch : 0;
  double current = step->step && steps_per_epoch > 0 ? floor((double)(step->step - 1) / steps_per_epoch) + 1 : 1;
  if (progress->total_steps && steps_per_epoch > 0) {
    double last = floor((double)(progress->total_steps - 1) / steps_per_epoch) + 1;
    snprintf(text, size, "epoch %.0f/%.0f", fmin(current, last), last);
  } else {
    snprintf(text, size, "epoch %.0f", current);
  }
}

// The epoch after `step` steps, whole when that step ended one.
static double shown_epoch(double epoch, uint64_t step) {
  return step && epoch - floor(epoch) < epoch / (double)step ? floor(epoch) : epoch;
}

static void format_step(char *text, size_t size, const struct ls_progress *progress,
                        const Lockstep__V1__StepReport *step) {
  char done[32], total[32], rate[32], left[32];
  int at = snprintf(text, size, "step %s", ls_format_count(done, step->step));
  if (progress->total_steps) {
    at += snprintf(text + at, size - (size_t)at, "/%s", ls_format_count(total, progress->total_steps));
  }
  at += snprintf(text + at, size - (size_t)at, "  loss %.4f  accuracy %.2f %%  %s images/s  %s left", step->loss,
                 step->accuracy * 100, ls_format_rate(rate, step->images_per_s), ls_format_duration(left, step->eta_s));
  snprintf(text + at, size - (size_t)at, "  input %.1f %%, compute %.1f %%", step->input_wait * 100,
           100 - step->input_wait * 100);
}

static void draw_bar(const struct ls_progress *progress, double share, int width) {
  share = fmin(fmax(share, 0), 1);
  int halves = (int)(share * 2 * width + 0.5);
  for (int i = 0; i < width; i++) {
    int filled = halves - 2 * i;
    if (progress->utf8) {
      fputs(filled >= 2 ? "\u2501" : filled == 1 ? "\u2578" : "\u2500", progress->out);
    } else {
      fputc(filled >= 2 ? '#' : filled == 1 ? '>' : '.', progress->out);
    }
  }
}

static void draw(struct ls_progress *progress, const char *epoch, const char *step, double share) {
  int room = columns(progress->out) - 1;
  int bar = room - (int)strlen(epoch) - (int)strlen(step) - 4;
  int step_room = (int)strlen(step);
  if (bar < MIN_BAR) {  // a narrow terminal: the end of the line goes first
    bar = MIN_BAR;
    step_room = room - (int)strlen(epoch) - bar - 4;
    if (step_room < 0) step_room = 0;
  }
  fputs("\r\033[K", progress->out);
  fprintf(progress->out, "%s  ", epoch);
  draw_bar(progress, share, bar > MAX_BAR ? MAX_BAR : bar);
  fprintf(progress->out, "  %.*s", step_room, step);
  fflush(progress->out);
  progress->drawn = true;
}

void ls_progress_count(struct ls_progress *progress, const char *what, uint64_t done, uint64_t total, double seconds) {
  if (!progress || !progress->terminal) return;
  char counted[32], all[32], rate[32], left[32], text[160];
  double per_s = seconds > 0 ? (double)done / seconds : 0;
  snprintf(text, sizeof text, "%s/%s  %s/s  %s left", ls_format_count(counted, done), ls_format_count(all, total),
           ls_format_rate(rate, per_s), ls_format_duration(left, per_s > 0 ? (double)(total - done) / per_s : -1));
  draw(progress, what, text, total ? (double)done / (double)total : 0);
}

static void on_step(struct ls_progress *progress, const Lockstep__V1__Event *event) {
  const Lockstep__V1__StepReport *step = event->step;
  char epoch[48], line[256];
  format_epoch(epoch, sizeof epoch, progress, step);
  format_step(line, sizeof line, progress, step);
  if (progress->terminal) {
    draw(progress, epoch, line, progress->total_steps ? (double)step->step / (double)progress->total_steps : 0);
    return;
  }
  bool epoch_ended = floor(step->epoch + 1e-9) > floor(progress->line_epoch + 1e-9);
  bool last = progress->total_steps && step->step >= progress->total_steps;
  if (!epoch_ended && !last && event->time_us - progress->line_time_us < STEP_LINE_S * INT64_C(1000000)) return;
  fprintf(progress->out, "%s  %s\n", epoch, line);
  fflush(progress->out);
  progress->line_time_us = event->time_us;
  progress->line_epoch = step->epoch;
}

static void on_started(struct ls_progress *progress, const Lockstep__V1__Event *event) {
  const Lockstep__V1__Started *started = event->started;
  char parameters[32], steps[32];
  progress->total_steps = started->total_steps;
  ls_progress_say(progress, "%u worker%s, %u shard%s, %s parameters, %s steps", started->workers,
                  started->workers == 1 ? "" : "s", started->shards, started->shards == 1 ? "" : "s",
                  ls_format_count(parameters, started->parameters), ls_format_count(steps, started->total_steps));
  if (started->step > 0 || (started->checkpoint && started->checkpoint[0])) {
    ls_progress_say(progress, "goes on from step %s (%s)", ls_format_count(steps, started->step), started->checkpoint);
  }
}

static void on_evaluation(struct ls_progress *progress, const Lockstep__V1__EvaluationReport *report) {
  char images[32];
  ls_progress_say(progress, "epoch %.4g  validation accuracy %.2f %%  top-5 %.2f %%  loss %.4f  (%s images)",
                  shown_epoch(report->epoch, report->step), report->accuracy * 100, report->top5 * 100, report->loss,
                  ls_format_count(images, report->images));
}

static void on_checkpoint(struct ls_progress *progress, const Lockstep__V1__CheckpointReport *report) {
  char bytes[32];
  const char *slash = strrchr(report->file, '/');
  ls_progress_say(progress, "epoch %.4g  checkpoint %s  %s, written in %.0f ms (training stood still for %.1f ms)",
                  shown_epoch(report->epoch, report->step), slash ? slash + 1 : report->file,
                  ls_format_bytes(bytes, (double)report->bytes), report->write_ms, report->stall_ms);
}

void ls_progress_event(struct ls_progress *progress, const Lockstep__V1__Event *event) {
  if (!progress) return;
  switch (event->kind_case) {
    case LOCKSTEP__V1__EVENT__KIND_STARTED: on_started(progress, event); break;
    case LOCKSTEP__V1__EVENT__KIND_STEP: on_step(progress, event); break;
    case LOCKSTEP__V1__EVENT__KIND_EVALUATION: on_evaluation(progress, event->evaluation); break;
    case LOCKSTEP__V1__EVENT__KIND_CHECKPOINT: on_checkpoint(progress, event->checkpoint); break;
    case LOCKSTEP__V1__EVENT__KIND_NOTE:
      ls_progress_say(progress, "%s%s", event->note->level >= LOCKSTEP__V1__NOTE__LEVEL__WARNING ? "warning: " : "",
                      event->note->text);
      break;
    default: break;  // how it ends is said by the command
  }
}
