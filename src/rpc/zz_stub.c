#include "rpc/client.h"
#include "rpc/server.h"
ls_status ls_rpc_client_connect(const char *a, struct ls_rpc_client **c, struct ls_error *e){(void)a;*c=0;return ls_fail(e,LS_UNAVAILABLE,"stub");}
void ls_rpc_client_free(struct ls_rpc_client *c){(void)c;}
ls_status ls_rpc_client_call(struct ls_rpc_client *client, const char *method, const ProtobufCMessage *request,
                             const ProtobufCMessageDescriptor *response_type, ProtobufCMessage **response,
                             unsigned timeout_ms, struct ls_error *err){return ls_fail(err,LS_UNAVAILABLE,"stub");}
ls_status ls_rpc_client_stream(struct ls_rpc_client *client, const char *method, const ProtobufCMessage *request,
                               const ProtobufCMessageDescriptor *response_type,
                               bool (*message)(void *user, const ProtobufCMessage *response), void *user,
                               struct ls_error *err){return ls_fail(err,LS_UNAVAILABLE,"stub");}
