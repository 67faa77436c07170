// Log lines on standard error, for daemon/ and worker/ only (libraries return errors instead).
// One line a call, written with a single write(2), so that lines of several threads never mix. Any thread may call.
#ifndef LS_BASE_LOG_H
#define LS_BASE_LOG_H

enum ls_log_level { LS_LOG_DEBUG, LS_LOG_INFO, LS_LOG_WARNING, LS_LOG_ERROR };

// Lines below `level` are dropped; LS_LOG_INFO at start.
void ls_log_set_level(enum ls_log_level level);

// Where standard error is systemd's journal (as JOURNAL_STREAM says when the first line is written), a line begins with
// the journal's "<N>" priority, else with the time in UTC and the level's name. A newline is added; control characters in the text are shown as "\xNN".
void ls_log(enum ls_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
