// Rows and columns, printed as aligned text or as JSON. Column widths count characters, not bytes (UTF-8).
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

struct cell {
  char *text;
  char *json;  // raw value
};

struct ls_table {
  const struct ls_column *columns;
  size_t column_count;
  struct cell *cells;
  size_t count, capacity;
  bool failed;  // memory ran out
};

struct ls_table *ls_table_new(const struct ls_column *columns, size_t count) {
  struct ls_table *table = calloc(1, sizeof *table);
  if (!table) return NULL;
  table->columns = columns;
  table->column_count = count;
  return table;
}

void ls_table_add(struct ls_table *table, const char *text, const char *json) {
  if (!table || table->failed) return;
  if (table->count == table->capacity) {
    size_t capacity = table->capacity ? 2 * table->capacity : 64;
    struct cell *cells = realloc(table->cells, capacity * sizeof *cells);
    if (!cells) {
      table->failed = true;
      return;
    }
    table->cells = cells;
    table->capacity = capacity;
  }
  struct cell *cell = &table->cells[table->count];
  cell->text = strdup(text);
  if (json) {
    cell->json = strdup(json);
  } else {
    struct ls_string quoted = LS_STRING_INIT;
    ls_json_string(&quoted, text);
    cell->json = ls_string_take(&quoted);
  }
  if (cell->text && cell->json) {
    table->count++;
  } else {
    free(cell->text);
    free(cell->json);
    table->failed = true;
  }
}

void ls_table_add_count(struct ls_table *table, uint64_t value) {
  char text[32], json[32];
  snprintf(json, sizeof json, "%llu", (unsigned long long)value);
  ls_table_add(table, ls_format_count(text, value), json);
}

void ls_table_add_number(struct ls_table *table, const char *text, double value) {
  char json[40] = "null";
  if (isfinite(value)) snprintf(json, sizeof json, "%.9g", value);
  ls_table_add(table, text, json);
}

static size_t width_of(const char *text) {
  size_t width = 0;
  for (; *text; text++) width += ((unsigned char)*text & 0xC0) != 0x80;
  return width;
}

static void print_padded(FILE *out, const char *text, size_t width, bool right, bool last) {
  size_t own = width_of(text);
  size_t pad = width > own ? width - own : 0;
  if (right) fprintf(out, "%*s", (int)pad, "");
  fputs(text, out);
  if (!right && !last) fprintf(out, "%*s", (int)pad, "");
  fputs(last ? "\n" : "  ", out);
}

static size_t last_visible(const struct ls_table *table) {
  size_t last = 0;
  for (size_t c = 0; c < table->column_count; c++) {
    if (table->columns[c].title) last = c;
  }
  return last;
}

static void print_rule(const struct ls_table *table, const size_t *width, FILE *out) {
  size_t total = 0;
  for (size_t c = 0; c < table->column_count; c++) total += table->columns[c].title ? width[c] + 2 : 0;
  for (size_t i = 2; i < total; i++) fputc('-', out);
  fputc('\n', out);
}

static void print_text(const struct ls_table *table, size_t footer, FILE *out) {
  enum { MAX_COLUMNS = 32 };
  size_t width[MAX_COLUMNS] = {0};
  size_t columns = table->column_count < MAX_COLUMNS ? table->column_count : MAX_COLUMNS;
  size_t rows = table->count / table->column_count, last = last_visible(table);
  for (size_t c = 0; c < columns; c++) {
    if (!table->columns[c].title) continue;
    width[c] = width_of(table->columns[c].title);
    for (size_t r = 0; r < rows; r++) {
      size_t own = width_of(table->cells[r * table->column_count + c].text);
      if (own > width[c]) width[c] = own;
    }
  }
  bool bold = ls_cli_is_terminal(out);
  if (bold) fputs("\033[1m", out);
  for (size_t c = 0; c < columns; c++) {
    const struct ls_column *column = &table->columns[c];
    if (column->title) print_padded(out, column->title, width[c], column->right, c == last);
  }
  if (bold) fputs("\033[0m", out);
  for (size_t r = 0; r < rows; r++) {
    if (footer && r == rows - footer) print_rule(table, width, out);
    for (size_t c = 0; c < columns; c++) {
      const struct ls_column *column = &table->columns[c];
      if (!column->title) continue;
      print_padded(out, table->cells[r * table->column_count + c].text, width[c], column->right, c == last);
    }
  }
}

static void print_json(const struct ls_table *table, size_t footer, FILE *out) {
  size_t rows = table->count / table->column_count - footer;
  fputs(rows ? "[\n" : "[]\n", out);
  for (size_t r = 0; r < rows; r++) {
    const char *separator = "  {";
    for (size_t c = 0; c < table->column_count; c++) {
      if (!table->columns[c].key) continue;
      fprintf(out, "%s\"%s\": %s", separator, table->columns[c].key, table->cells[r * table->column_count + c].json);
      separator = ", ";
    }
    fputs(r + 1 < rows ? "},\n" : "}\n", out);
  }
  if (rows) fputs("]\n", out);
}

void ls_table_print(struct ls_table *table, enum ls_output_format format, size_t footer, FILE *out) {
  if (!table || table->failed) {
    fputs("lockstep: memory ran out while making a table\n", stderr);
  } else if (format == LS_OUTPUT_JSON) {
    print_json(table, footer, out);
  } else {
    print_text(table, footer, out);
  }
  for (size_t i = 0; table && i < table->count; i++) {
    free(table->cells[i].text);
    free(table->cells[i].json);
  }
  if (table) free(table->cells);
  free(table);
}
