// The status page: see page.h.
#include "daemon/page.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <time.h>

static const char style[] =
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1b1f24;"
    "background:#fff}h1{font-size:1.35rem;margin:0 0 .3rem}p{margin:.2rem 0 1.2rem;color:#57606a}"
    "table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;color:#57606a;font-size:.85rem}"
    "td,th{padding:.45rem .7rem .45rem 0;border-bottom:1px solid #d8dee4;vertical-align:top}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}.bar{background:#d8dee4;height:.4rem;border-radius:.2rem;"
    "min-width:6rem}.bar div{background:#1f6feb;height:100%;border-radius:.2rem}.why{color:#57606a;font-size:.85rem}"
    ".running{color:#1a7f37}.failed{color:#cf222e}.scroll{overflow-x:auto}a{color:#0969da}"
    "@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}td,th{border-color:#30363d}"
    "p,th,.why{color:#9198a1}.bar{background:#30363d}.running{color:#3fb950}.failed{color:#f85149}a{color:#4493f8}}";

static void text(struct ls_string *out, const char *value) {
  for (; *value; value++) {
    switch (*value) {
      case '<': ls_string_add(out, "&lt;"); break;
      case '>': ls_string_add(out, "&gt;"); break;
      case '&': ls_string_add(out, "&amp;"); break;
      case '"': ls_string_add(out, "&quot;"); break;
      default: ls_string_add_bytes(out, value, 1);
    }
  }
}

static void time_left(struct ls_string *out, double seconds) {
  if (!(seconds >= 0) || seconds > 1e8) return;
  unsigned s = (unsigned)(seconds + 0.5);
  if (s >= 3600)
    ls_string_addf(out, "%u:%02u:%02u", s / 3600, s / 60 % 60, s % 60);
  else
    ls_string_addf(out, "%u:%02u", s / 60, s % 60);
}

static void row(struct ls_string *out, const struct job *job) {
  const char *state = job_state_name(job->state);
  double share = job->total_steps ? (double)job->step / (double)job->total_steps : 0;
  bool running = job_running(job);
  ls_string_addf(out, "<tr><td class=n><a href=\"/api/v1/jobs/%s\">%s</a></td><td>", job->id_text, job->id_text);
  text(out, job->name);
  ls_string_addf(out, "<div class=why>%s", job->user[0] ? "by " : "");
  text(out, job->user);
  ls_string_addf(out, "</div></td><td><span class=%s>%s</span><div class=why>", state, state);
  text(out, job->reason);
  ls_string_addf(out, "</div></td><td><div class=bar><div style=\"width:%.1f%%\"></div></div>", share * 100);
  ls_string_addf(out, "<div class=why>step %" PRIu64 " of %" PRIu64, job->step, job->total_steps);
  if (running && job->last.step) {
    ls_string_add(out, ", ");
    time_left(out, job->last.eta_s);
    ls_string_add(out, " left");
  }
  ls_string_add(out, "</div></td>");
  if (job->last.step)
    ls_string_addf(out, "<td class=n>%.4f</td><td class=n>%.2f %%</td>", job->last.loss, job->last.accuracy * 100);
  else
    ls_string_add(out, "<td></td><td></td>");
  if (isfinite(job->validation_accuracy))
    ls_string_addf(out, "<td class=n>%.2f %%</td>", job->validation_accuracy * 100);
  else
    ls_string_add(out, "<td></td>");
  if (running && job->last.step)
    ls_string_addf(out, "<td class=n>%.0f</td><td class=n>%.1f %%</td>", job->last.images_per_s,
                   job->last.input_wait * 100);
  else
    ls_string_add(out, "<td></td><td></td>");
  ls_string_addf(out, "<td class=n>%u</td></tr>\n", job_device_count(job));
}

void page_write(const struct manager *m, struct ls_string *out) {
  unsigned used = 0, gpus_used = 0;
  const struct devices *devices = manager_devices(m);
  size_t count = manager_job_count(m);
  for (size_t i = 0; i < count; i++) {
    used += (unsigned)__builtin_popcountll(manager_job(m, i)->device_mask);
    gpus_used += (unsigned)__builtin_popcountll(manager_job(m, i)->gpu_mask);
  }
  ls_string_addf(out,
                 "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
                 "content=\"width=device-width\"><meta http-equiv=refresh content=2><title>Lockstep</title>"
                 "<style>%s</style><h1>Lockstep</h1><p>%s, %zu job%s, ",
                 style, manager_ready(m) ? "ready" : "not ready", count, count == 1 ? "" : "s");
  if (devices_gpus(devices)) {
    ls_string_addf(out, "%u of %u GPUs in use, %d healthy (", gpus_used, devices_gpus(devices),
                   __builtin_popcountll(devices_healthy(devices)));
    text(out, devices_gpu(devices, 0)->name);
    ls_string_add(out, "), ");
  }
  ls_string_addf(out, "%u of %u CPU cores in use (", used, devices_cpus(devices));
  text(out, devices_cpu_description(devices));
  ls_string_add(out, ")</p>\n");
  if (count == 0) {
    ls_string_add(out, "<p>No job yet. Submit one: <code>lockstep submit FILE --watch</code></p>\n");
    return;
  }
  ls_string_add(out,
                "<div class=scroll><table><tr><th class=n>job<th>name<th>state<th>progress<th class=n>loss<th "
                "class=n>accuracy<th class=n>validation<th class=n>images/s<th class=n>input wait<th "
                "class=n>devices</tr>\n");
  for (size_t i = count; i-- > 0;) row(out, manager_job(m, i));
  ls_string_add(out, "</table></div>\n");
}
