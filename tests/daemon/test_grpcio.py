"""A gRPC client that nobody here wrote: Debian's python3-grpcio with stubs made from proto/ at test time. Submits,
watches, cancels; health; and finds the services by reflection alone."""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

from util import JOB, ROOT, Place, run_tests, wait_for, write_data

OUT = tempfile.TemporaryDirectory(prefix="lockstep-stubs-")


def make_stubs():
    # `grpc` is the library's own name: the standard services' files go under another one, with the wire names untouched.
    tree, names = os.path.join(OUT.name, "proto"), []
    for source in glob.glob(os.path.join(ROOT, "proto", "**", "*.proto"), recursive=True):
        names.append(os.path.relpath(source, os.path.join(ROOT, "proto")).replace("grpc/", "standard/"))
        os.makedirs(os.path.dirname(os.path.join(tree, names[-1])), exist_ok=True)
        shutil.copyfile(source, os.path.join(tree, names[-1]))
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I", tree, "-I/usr/include", "--python_out", OUT.name,
                    "--grpc_python_out", OUT.name, *names], check=True)
    sys.path.insert(0, OUT.name)


make_stubs()
import grpc  # noqa: E402
from google.protobuf import descriptor_pb2, json_format  # noqa: E402
from lockstep.v1 import job_pb2, service_pb2, service_pb2_grpc  # noqa: E402
from standard.health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from standard.reflection.v1 import reflection_pb2, reflection_pb2_grpc  # noqa: E402


def stub_of(place):
    channel = grpc.insecure_channel("unix:" + place.path("d.sock"))
    return channel, service_pb2_grpc.LockstepStub(channel)


def job_message(place, **changes):
    """The job as `lockstep submit --dry-run` would send it."""
    result = place.run("submit", place.write("job.yaml", JOB), "--dry-run", "-o", "json")
    assert result.returncode == 0, result
    fields = json.loads(result.stdout)
    message = job_pb2.Job()
    message.name = "foreign"
    message.batch_size = 32
    message.shards = 4
    message.epochs = changes.get("epochs", 2)
    message.data.train = place.path("tiny.h5") + ":/train"
    message.data.validation = place.path("tiny.h5") + ":/test"
    message.devices.kind = job_pb2.DEVICE_KIND_CPU
    message.devices.count = 2
    message.devices.oversubscribe = True
    message.optimizer.sgd.learning_rate = 0.02
    json_format.ParseDict(fix(fields["network"], message.network.DESCRIPTOR), message.network)
    return message


def fix(value, descriptor):
    """Lower-case enum names, as files have them, to those of the schema."""
    for key, item in list(value.items()):
        field = descriptor.fields_by_name[key]
        if field.message_type:
            for element in item if isinstance(item, list) else [item]:
                fix(element, field.message_type)
        elif field.enum_type:
            value[key] = next(v.name for v in field.enum_type.values if v.name.lower().endswith(item))
    return value


def test_submit_watch_and_result():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        channel, stub = stub_of(place)
        job = stub.Submit(service_pb2.SubmitRequest(job=job_message(place), request_key="a")).id
        assert stub.Submit(service_pb2.SubmitRequest(job=job_message(place), request_key="a")).id == job
        responses = list(stub.Watch(service_pb2.WatchRequest(id=job), timeout=60))
        assert responses[0].HasField("info") and responses[-1].info.state == service_pb2.SUCCEEDED
        events = [r for r in responses if r.HasField("event")]
        assert [r.index for r in events] == list(range(len(events)))
        kinds = [r.event.WhichOneof("kind") for r in events]
        assert kinds[0] == "started" and kinds[-1] == "outcome" and "evaluation" in kinds and "checkpoint" in kinds, kinds
        later = [r.index for r in stub.Watch(service_pb2.WatchRequest(id=job, from_event=3)) if r.HasField("event")]
        assert later == list(range(3, len(events))), later
        info = stub.Get(service_pb2.GetRequest(id=job, include_job=True))
        assert info.job.name == "foreign" and len(info.parameters_sha256) == 64 and info.state == service_pb2.SUCCEEDED
        assert [j.id for j in stub.List(service_pb2.ListRequest()).jobs] == [job]
        assert not stub.List(service_pb2.ListRequest(states=[service_pb2.FAILED])).jobs
        assert stub.Devices(service_pb2.DevicesRequest()).devices
        log = b"".join(r.data for r in stub.Logs(service_pb2.LogsRequest(id=job, follow=True), timeout=10))
        assert info.parameters_sha256.encode() in log
        channel.close()


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    raise AssertionError("no error")


def test_cancel_and_errors():
    with Place() as place:
        write_data(place.path("tiny.h5"))
        place.start_daemon()
        channel, stub = stub_of(place)
        job = stub.Submit(service_pb2.SubmitRequest(job=job_message(place, epochs=500))).id
        watch = stub.Watch(service_pb2.WatchRequest(id=job))
        for response in watch:
            if response.HasField("event"):
                break
        stub.Cancel(service_pb2.JobRequest(id=job))
        assert [r.info.state for r in watch if r.HasField("info")][-1] == service_pb2.CANCELLED
        stopped = stub.Watch(service_pb2.WatchRequest(id=job))
        next(stopped)
        stopped.cancel()
        wait_for(lambda: stub.Get(service_pb2.GetRequest(id=job)).state == service_pb2.CANCELLED, "the end")
        code, text = code_of(lambda: stub.Get(service_pb2.GetRequest(id="nothing")))
        assert code == grpc.StatusCode.NOT_FOUND and "nothing" in text, (code, text)
        code, text = code_of(lambda: stub.Pause(service_pb2.JobRequest(id=job)))
        assert code == grpc.StatusCode.FAILED_PRECONDITION, (code, text)
        code, text = code_of(lambda: stub.Submit(service_pb2.SubmitRequest()))
        assert code == grpc.StatusCode.INVALID_ARGUMENT, (code, text)
        bad = job_message(place)
        bad.batch_size = 33
        code, text = code_of(lambda: stub.Submit(service_pb2.SubmitRequest(job=bad)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "33" in text, (code, text)
        relative = job_message(place)
        relative.data.train = "tiny.h5:/train"
        code, text = code_of(lambda: stub.Submit(service_pb2.SubmitRequest(job=relative)))
        assert code == grpc.StatusCode.INVALID_ARGUMENT and "tiny.h5" in text, (code, text)
        channel.close()


def test_health_and_reflection():
    with Place() as place:
        place.start_daemon()
        channel, _ = stub_of(place)
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "lockstep.v1.Lockstep"):
            assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == health_pb2.HealthCheckResponse.SERVING
        assert code_of(lambda: health.Check(health_pb2.HealthCheckRequest(service="x")))[0] == grpc.StatusCode.NOT_FOUND
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        requests = [reflection_pb2.ServerReflectionRequest(list_services=""),
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol="lockstep.v1.Lockstep")]
        answers = list(reflection.ServerReflectionInfo(iter(requests)))
        services = {s.name for s in answers[0].list_services_response.service}
        assert {"lockstep.v1.Lockstep", "grpc.health.v1.Health"} <= services, services
        file = descriptor_pb2.FileDescriptorProto.FromString(answers[1].file_descriptor_response.file_descriptor_proto[0])
        assert [m.name for m in file.service[0].method][0] == "Submit", file
        channel.close()


if __name__ == "__main__":
    run_tests(sys.modules["__main__"])
