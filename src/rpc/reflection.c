// grpc.reflection.v1.ServerReflection, and v1alpha, which is the same on the wire: answers from the index of the
// schema that reflection_index.c makes.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/internal.h"
#include "rpc/reflection_index.h"

typedef Grpc__Reflection__V1__ServerReflectionRequest request_message;
typedef Grpc__Reflection__V1__ServerReflectionResponse response_message;

static void send_error(struct ls_rpc_call *call, response_message *response, enum ls_rpc_code code, const char *text) {
  Grpc__Reflection__V1__ErrorResponse error = GRPC__REFLECTION__V1__ERROR_RESPONSE__INIT;
  error.error_code = code;
  error.error_message = (char *)(uintptr_t)text;
  response->message_response_case = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
  response->error_response = &error;
  ls_rpc_call_send(call, &response->base);
}

// `file`: index of a file, -1 for "there is none".
static void send_file(const struct ls_rpc_reflection *reflection, struct ls_rpc_call *call, response_message *response,
                      int file) {
  if (file < 0) {
    send_error(call, response, LS_RPC_NOT_FOUND, "the schema of this server has no such file, symbol or extension");
    return;
  }
  ProtobufCBinaryData *files = calloc(reflection->file_count, sizeof *files);
  unsigned *order = calloc(reflection->file_count, sizeof *order);
  if (files && order) {
    size_t count = ls_rpc_reflection_closure(reflection, (unsigned)file, order);
    for (size_t i = 0; i < count; i++) {
      files[i].data = (uint8_t *)(uintptr_t)reflection->files[order[i]].data;
      files[i].len = reflection->files[order[i]].size;
    }
    Grpc__Reflection__V1__FileDescriptorResponse answer = GRPC__REFLECTION__V1__FILE_DESCRIPTOR_RESPONSE__INIT;
    answer.n_file_descriptor_proto = count;
    answer.file_descriptor_proto = files;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    response->file_descriptor_response = &answer;
    ls_rpc_call_send(call, &response->base);
  } else {
    send_error(call, response, LS_RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
  }
  free(files);
  free(order);
}

static void send_extensions(const struct ls_rpc_reflection *reflection, struct ls_rpc_call *call,
                            response_message *response, const char *type) {
  if (*type == '.') type++;
  int32_t *numbers = calloc(reflection->extension_count + 1, sizeof *numbers);
  size_t count = 0;
  for (size_t i = 0; numbers && i < reflection->extension_count; i++) {
    if (strcmp(reflection->extensions[i].type, type) == 0) numbers[count++] = reflection->extensions[i].number;
  }
  if (!numbers) {
    send_error(call, response, LS_RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
  } else if (!count && ls_rpc_reflection_find_symbol(reflection, type) < 0) {
    send_error(call, response, LS_RPC_NOT_FOUND, "the schema of this server has no such message");
  } else {
    Grpc__Reflection__V1__ExtensionNumberResponse answer = GRPC__REFLECTION__V1__EXTENSION_NUMBER_RESPONSE__INIT;
    answer.base_type_name = (char *)(uintptr_t)type;
    answer.n_extension_number = count;
    answer.extension_number = numbers;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ALL_EXTENSION_NUMBERS_RESPONSE;
    response->all_extension_numbers_response = &answer;
    ls_rpc_call_send(call, &response->base);
  }
  free(numbers);
}

// Each service once, in the order of the server's table.
static void send_services(const struct ls_rpc_server *server, struct ls_rpc_call *call, response_message *response) {
  Grpc__Reflection__V1__ServiceResponse *services = calloc(server->entry_count, sizeof *services);
  Grpc__Reflection__V1__ServiceResponse **list = calloc(server->entry_count, sizeof *list);
  if (services && list) {
    size_t count = 0;
    for (size_t i = 0; i < server->entry_count; i++) {
      const char *name = server->entries[i].method.service;
      bool listed = false;
      for (size_t j = 0; j < count && !listed; j++) listed = strcmp(services[j].name, name) == 0;
      if (listed) continue;
      grpc__reflection__v1__service_response__init(&services[count]);
      services[count].name = (char *)(uintptr_t)name;
      list[count] = &services[count];
      count++;
    }
    Grpc__Reflection__V1__ListServiceResponse answer = GRPC__REFLECTION__V1__LIST_SERVICE_RESPONSE__INIT;
    answer.n_service = count;
    answer.service = list;
    response->message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    response->list_services_response = &answer;
    ls_rpc_call_send(call, &response->base);
  } else {
    send_error(call, response, LS_RPC_RESOURCE_EXHAUSTED, "the server is out of memory");
  }
  free(services);
  free(list);
}

// One question of the stream; see ls_rpc_entry.bidirectional.
static void handle_question(void *user, struct ls_rpc_call *call, const ProtobufCMessage *message) {
  const struct ls_rpc_server *server = user;
  const struct ls_rpc_reflection *reflection = server->reflection;
  request_message *request = (request_message *)(uintptr_t)message;
  response_message response = GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__INIT;
  response.valid_host = request->host;
  response.original_request = request;
  switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
      send_file(reflection, call, &response, ls_rpc_reflection_find_file(reflection, request->file_by_filename));
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
      send_file(reflection, call, &response,
                ls_rpc_reflection_find_symbol(reflection, request->file_containing_symbol));
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_EXTENSION:
      send_file(reflection, call, &response,
                ls_rpc_reflection_find_extension(reflection, request->file_containing_extension->containing_type,
                                                 request->file_containing_extension->extension_number));
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_ALL_EXTENSION_NUMBERS_OF_TYPE:
      send_extensions(reflection, call, &response, request->all_extension_numbers_of_type);
      break;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
      send_services(server, call, &response);
      break;
    default: send_error(call, &response, LS_RPC_UNIMPLEMENTED, "this server does not know the question");
  }
}

size_t ls_rpc_reflection_entries(struct ls_rpc_server *server, struct ls_rpc_entry *entries) {
  if (!server->reflection) return 0;
  static const char *const services[] = {"grpc.reflection.v1.ServerReflection",
                                         "grpc.reflection.v1alpha.ServerReflection"};
  for (int i = 0; i < 2; i++) {
    entries[i].method = (struct ls_rpc_method){services[i],
                                               "ServerReflectionInfo",
                                               &grpc__reflection__v1__server_reflection_request__descriptor,
                                               &grpc__reflection__v1__server_reflection_response__descriptor,
                                               true,
                                               handle_question};
    entries[i].user = server;
    entries[i].bidirectional = true;
  }
  return 2;
}
