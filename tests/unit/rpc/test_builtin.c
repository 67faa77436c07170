// Health and reflection by our own client (tests/rpc tries them with another).
#include "fixture.h"
#include "grpc/health/v1/health.pb-c.h"
#include "grpc/reflection/v1/reflection.pb-c.h"

static int check(struct ls_rpc_client *client, const char *service, ls_status *status) {
  Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  request.service = (char *)(uintptr_t)service;
  struct ls_error err;
  ProtobufCMessage *response;
  *status = ls_rpc_client_call(client, "/grpc.health.v1.Health/Check", &request.base,
                               &grpc__health__v1__health_check_response__descriptor, &response, 0, &err);
  if (*status != LS_OK) return -1;
  int answer = (int)((const Grpc__Health__V1__HealthCheckResponse *)response)->status;
  protobuf_c_message_free_unpacked(response, NULL);
  return answer;
}

static void test_check(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  ls_status status;
  assert_int_equal(check(client, "", &status), 1);
  assert_int_equal(check(client, "test.v1.Test", &status), 1);
  assert_int_equal(check(client, "test.v1", &status), -1);
  assert_int_equal(status, LS_NOT_FOUND);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

struct watching {
  struct fixture *f;
  int seen[4];
  int count;
};

// SERVING, then the test makes it NOT_SERVING, then the server stops.
static bool on_health(void *user, const ProtobufCMessage *message) {
  struct watching *watching = user;
  assert_true(watching->count < 4);
  watching->seen[watching->count++] = (int)((const Grpc__Health__V1__HealthCheckResponse *)message)->status;
  if (watching->count == 1) uv_async_send(&watching->f->stop);
  if (watching->count == 2) fixture_begin_stop(watching->f);
  return true;
}

static void test_watch(void **state) {
  (void)state;
  struct fixture f = {.drain_ms = 60000};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  struct watching watching = {.f = &f};
  struct ls_error err = LS_ERROR_INIT;
  Grpc__Health__V1__HealthCheckRequest request = GRPC__HEALTH__V1__HEALTH_CHECK_REQUEST__INIT;
  assert_int_equal(
      ls_rpc_client_stream(client, "/grpc.health.v1.Health/Watch", &request.base,
                           &grpc__health__v1__health_check_response__descriptor, on_health, &watching, &err),
      LS_UNAVAILABLE);
  assert_string_equal(err.text, "the server is stopping");
  assert_int_equal(watching.count, 2);
  assert_int_equal(watching.seen[0], 1);
  assert_int_equal(watching.seen[1], 2);
  ls_rpc_client_free(client);
  fixture_end_stop(&f);
}

struct answer {
  int count;
  int kind;
  size_t services, files;
  int error;
};

static bool on_answer(void *user, const ProtobufCMessage *message) {
  const Grpc__Reflection__V1__ServerReflectionResponse *response =
      (const Grpc__Reflection__V1__ServerReflectionResponse *)message;
  struct answer *answer = user;
  answer->count++;
  answer->kind = (int)response->message_response_case;
  if (answer->kind == GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE) {
    answer->services = response->list_services_response->n_service;
  }
  if (answer->kind == GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE) {
    answer->files = response->file_descriptor_response->n_file_descriptor_proto;
  }
  if (answer->kind == GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE) {
    answer->error = response->error_response->error_code;
  }
  return true;
}

static struct answer ask(struct ls_rpc_client *client, int kind, const char *text) {
  Grpc__Reflection__V1__ServerReflectionRequest request = GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__INIT;
  request.message_request_case = (Grpc__Reflection__V1__ServerReflectionRequest__MessageRequestCase)kind;
  request.list_services = (char *)(uintptr_t)text;  // a union with the other texts
  struct answer answer = {0};
  struct ls_error err = LS_ERROR_INIT;
  if (ls_rpc_client_stream(client, "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", &request.base,
                           &grpc__reflection__v1__server_reflection_response__descriptor, on_answer, &answer, &err)) {
    fail_msg("%s", err.text);
  }
  assert_int_equal(answer.count, 1);
  return answer;
}

static void test_reflection(void **state) {
  (void)state;
  struct fixture f = {0};
  fixture_start(&f);
  struct ls_rpc_client *client = fixture_connect(&f);
  enum { FILE_NAME = 3, SYMBOL = 4, EXTENSIONS = 6, SERVICES = 7 };  // numbers of the request's fields
  assert_int_equal(ask(client, SERVICES, "").services, 4);           // Test, Health, and reflection twice
  assert_int_equal(ask(client, FILE_NAME, "google/protobuf/descriptor.proto").files, 1);
  assert_true(ask(client, SYMBOL, "lockstep.v1.Lockstep.Submit").files >= 5);
  assert_int_equal(ask(client, SYMBOL, "grpc.health.v1.HealthCheckResponse.ServingStatus").files, 1);
  assert_int_equal(ask(client, SYMBOL, "lockstep.v1").error, LS_RPC_NOT_FOUND);
  assert_int_equal(ask(client, SYMBOL, ".").error, LS_RPC_NOT_FOUND);
  assert_int_equal(ask(client, EXTENSIONS, "google.protobuf.FieldOptions").kind, 5);
  assert_int_equal(ask(client, EXTENSIONS, "nothing").error, LS_RPC_NOT_FOUND);
  assert_int_equal(ask(client, 0, "").error, LS_RPC_UNIMPLEMENTED);
  ls_rpc_client_free(client);
  fixture_stop(&f);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_check),
      cmocka_unit_test(test_watch),
      cmocka_unit_test(test_reflection),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
