"""Our server against grpcio: unary and streaming calls, errors, cancelling, deadlines, compression, health, reflection,
shutdown.  test_python.py PATH-OF-test-rpc-server"""
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

try:
    import grpc
    from grpc_tools import protoc
except ImportError:
    print("skipped: needs python3-grpcio and python3-grpc-tools")
    sys.exit(77)

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SERVER = sys.argv.pop(1)
WAIT_S = 30

folder = tempfile.TemporaryDirectory(prefix="lockstep-rpc-")
PROTOS = ["lockstep/v1/%s.proto" % name for name in ("options", "network", "job", "event", "service")]
PROTOS += ["grpc/health/v1/health.proto", "grpc/reflection/v1/reflection.proto", "grpc/reflection/v1alpha/reflection.proto"]


def make_stubs():
    # `grpc` is the name of the library itself: its own protos go under another one, with the wire names untouched.
    tree = os.path.join(folder.name, "proto")
    for name in PROTOS:
        place = os.path.join(tree, name.replace("grpc/", "standard/"))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(os.path.join(SOURCE, "proto", name)) as source, open(place, "w") as copy:
            copy.write(source.read())
    out = os.path.join(folder.name, "stubs")
    os.mkdir(out)
    names = [name.replace("grpc/", "standard/") for name in PROTOS]
    arguments = ["protoc", "-I" + tree, "-I/usr/include", "--python_out=" + out, "--grpc_python_out=" + out] + names
    assert protoc.main(arguments) == 0
    sys.path.insert(0, out)


make_stubs()
from lockstep.v1 import event_pb2, job_pb2, service_pb2, service_pb2_grpc  # noqa: E402
from standard.health.v1 import health_pb2, health_pb2_grpc  # noqa: E402
from standard.reflection.v1 import reflection_pb2, reflection_pb2_grpc  # noqa: E402
from standard.reflection.v1alpha import reflection_pb2_grpc as old_grpc  # noqa: E402
from standard.reflection.v1alpha import reflection_pb2 as old_pb2  # noqa: E402
from google.protobuf import descriptor_pb2  # noqa: E402


class Server:
    def __init__(self, name):
        self.path = os.path.join(folder.name, name)
        self.process = subprocess.Popen([SERVER, self.path])
        deadline = time.monotonic() + WAIT_S
        while not os.path.exists(self.path):  # a channel that comes too early waits a second before its next try
            assert time.monotonic() < deadline and self.process.poll() is None, "the server did not start"
            time.sleep(0.002)
        self.channel = grpc.insecure_channel("unix:" + self.path)
        grpc.channel_ready_future(self.channel).result(timeout=WAIT_S)
        self.stub = service_pb2_grpc.LockstepStub(self.channel)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=WAIT_S)

    def device(self):
        return self.stub.Devices(service_pb2.DevicesRequest(), timeout=WAIT_S).devices[0]

    def wait_closed(self, wanted):
        deadline = time.monotonic() + WAIT_S
        while self.device().memory_bytes < wanted:
            assert time.monotonic() < deadline, "the server did not hear of the end of a call"
            time.sleep(0.005)


class Calls(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("calls")
        cls.stub = cls.server.stub

    @classmethod
    def tearDownClass(cls):
        cls.server.channel.close()
        assert cls.server.stop() == 0

    def fails(self, code, call, *arguments, **more):
        with self.assertRaises(grpc.RpcError) as caught:
            answer = call(*arguments, **more)
            if hasattr(answer, "__next__"):
                list(answer)
        self.assertEqual(caught.exception.code(), code)
        return caught.exception.details()

    def test_unary(self):
        import pwd

        self.assertEqual(self.stub.Submit(service_pb2.SubmitRequest(request_key="k")).id, "k")
        self.assertEqual(self.stub.Submit(service_pb2.SubmitRequest()).id, pwd.getpwuid(os.geteuid()).pw_name)
        key = "ü" * 250000
        self.assertEqual(self.stub.Submit(service_pb2.SubmitRequest(request_key=key)).id, key)
        self.assertEqual(os.stat(self.server.path).st_mode & 0o777, 0o600)

    def test_many_at_once(self):
        futures = [self.stub.Get.future(service_pb2.GetRequest(id=str(i)), timeout=WAIT_S) for i in range(500)]
        self.assertEqual([f.result().name for f in futures], [str(i) for i in range(500)])

    def test_errors(self):
        text = self.fails(grpc.StatusCode.NOT_FOUND, self.stub.Get, service_pb2.GetRequest(id="missing"))
        self.assertEqual(text, "there is no job 'missing' (100%, ä )")  # texts stay one line
        text = self.fails(grpc.StatusCode.UNIMPLEMENTED, self.stub.List, service_pb2.ListRequest())
        self.assertIn("/lockstep.v1.Lockstep/List", text)
        big = service_pb2.SubmitRequest(request_key="x" * (2 << 20))
        self.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, self.stub.Submit, big)
        raw = self.server.channel.unary_unary("/lockstep.v1.Lockstep/Submit")
        self.fails(grpc.StatusCode.INTERNAL, raw, b"\x0a\xff\xff\xff\xff\x7f")
        many = self.server.channel.stream_unary("/lockstep.v1.Lockstep/Submit")
        self.fails(grpc.StatusCode.UNIMPLEMENTED, many, iter([b"", b""]))
        self.fails(grpc.StatusCode.UNIMPLEMENTED, many, iter([]))

    def test_compression(self):
        # Told in its first answer that only identity is taken, a client sends plain messages from then on.
        request = service_pb2.SubmitRequest(request_key="y" * 10000)
        with grpc.insecure_channel("unix:" + self.server.path) as channel:
            stub = service_pb2_grpc.LockstepStub(channel)
            text = self.fails(grpc.StatusCode.UNIMPLEMENTED, stub.Submit, request, compression=grpc.Compression.Gzip)
            self.assertIn("gzip", text)

    def test_metadata(self):
        more = [("x-thing", "a"), ("x-thing-bin", b"\x00\xff"), ("x-long", "b" * 6000)]
        self.assertEqual(self.stub.Get(service_pb2.GetRequest(id="m"), metadata=more).name, "m")
        huge = [("x-%d" % i, "c" * 4000) for i in range(5)]
        self.fails(grpc.StatusCode.RESOURCE_EXHAUSTED, self.stub.Get, service_pb2.GetRequest(id="m"), metadata=huge)

    def test_deadline(self):
        before = self.server.device().memory_bytes
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, self.stub.Cancel, service_pb2.JobRequest(), timeout=0.5)
        follow = service_pb2.LogsRequest(follow=True, tail=1)
        self.fails(grpc.StatusCode.DEADLINE_EXCEEDED, self.stub.Logs, follow, timeout=0.5)
        self.server.wait_closed(before + 2)

    def test_stream(self):
        for tail in (0, 1, 1000):
            answers = list(self.stub.Logs(service_pb2.LogsRequest(tail=tail), timeout=WAIT_S))
            self.assertEqual([len(a.data) for a in answers], [10000] * tail)

    def test_cancel(self):
        before = self.server.device().memory_bytes
        stream = self.stub.Logs(service_pb2.LogsRequest(follow=True, tail=2))
        self.assertEqual(len(next(stream).data), 10000)
        stream.cancel()
        call = self.stub.Cancel.future(service_pb2.JobRequest())
        time.sleep(0.01)
        call.cancel()
        self.server.wait_closed(before + 1)

    def test_slow_reader(self):
        # 1 GB is wanted; a reader that takes one message makes the server keep 4 MiB and what the windows hold.
        before = self.server.device()
        stream = self.stub.Logs(service_pb2.LogsRequest(tail=100000))
        next(stream)
        time.sleep(0.3)
        self.assertLess(self.server.device().memory_used_bytes - before.memory_used_bytes, 3000)
        stream.cancel()
        self.server.wait_closed(before.memory_bytes + 1)


class Health(unittest.TestCase):
    def setUp(self):
        self.server = Server("health")
        self.stub = health_pb2_grpc.HealthStub(self.server.channel)

    def tearDown(self):
        self.server.channel.close()
        if self.server.process.poll() is None:
            self.server.stop()

    def check(self, service):
        return self.stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_S).status

    def set(self, state):
        self.server.stub.Pause(service_pb2.JobRequest(id=state), timeout=WAIT_S)

    def test_check(self):
        kind = health_pb2.HealthCheckResponse
        for service in ("", "lockstep.v1.Lockstep", "grpc.health.v1.Health"):
            self.assertEqual(self.check(service), kind.SERVING)
        self.set("off")
        self.assertEqual(self.check(""), kind.NOT_SERVING)
        self.assertEqual(self.check("lockstep.v1.Lockstep"), kind.NOT_SERVING)
        with self.assertRaises(grpc.RpcError) as caught:
            self.check("nobody")
        self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)

    def test_watch(self):
        kind = health_pb2.HealthCheckResponse
        stream = self.stub.Watch(health_pb2.HealthCheckRequest(), timeout=WAIT_S)
        unknown = self.stub.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=WAIT_S)
        self.assertEqual(next(stream).status, kind.SERVING)
        self.assertEqual(next(unknown).status, kind.SERVICE_UNKNOWN)
        for state, wanted in (("off", kind.NOT_SERVING), ("on", kind.SERVING)):
            self.set(state)
            self.set(state)  # no change, no message
            self.assertEqual(next(stream).status, wanted)
        self.server.process.send_signal(signal.SIGTERM)
        self.assertEqual(next(stream).status, kind.NOT_SERVING)
        with self.assertRaises(grpc.RpcError) as caught:
            next(stream)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
        self.assertEqual(self.server.process.wait(timeout=WAIT_S), 0)


class Reflection(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("reflection")

    @classmethod
    def tearDownClass(cls):
        cls.server.channel.close()
        assert cls.server.stop() == 0

    def ask(self, *questions):
        stub = reflection_pb2_grpc.ServerReflectionStub(self.server.channel)
        # The method's name on the wire comes from the package, not from where the stub lies.
        requests = [reflection_pb2.ServerReflectionRequest(host="h", **question) for question in questions]
        answers = list(stub.ServerReflectionInfo(iter(requests), timeout=WAIT_S))
        self.assertEqual([a.original_request for a in answers], requests)
        self.assertEqual({a.valid_host for a in answers}, {"h"})
        return answers

    @staticmethod
    def names(answer):
        files = answer.file_descriptor_response.file_descriptor_proto
        return [descriptor_pb2.FileDescriptorProto.FromString(file).name for file in files]

    def test_services(self):
        services = [s.name for s in self.ask({"list_services": ""})[0].list_services_response.service]
        self.assertEqual(services, ["lockstep.v1.Lockstep", "grpc.health.v1.Health",
                                    "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"])
        old = old_grpc.ServerReflectionStub(self.server.channel)
        answer = list(old.ServerReflectionInfo(iter([old_pb2.ServerReflectionRequest(list_services="")])))[0]
        self.assertEqual([s.name for s in answer.list_services_response.service], services)
        # Each service that is listed can be looked up.
        for answer in self.ask(*[{"file_containing_symbol": name} for name in services]):
            self.assertTrue(self.names(answer))

    def test_symbols(self):
        wanted = {
            "lockstep.v1.Lockstep": "service",
            "lockstep.v1.Lockstep.Watch": "service",
            ".lockstep.v1.JobInfo": "service",
            "lockstep.v1.JobState": "service",
            "lockstep.v1.Event": "event",
            "lockstep.v1.Initializer.HeNormal": "network",
            "lockstep.v1.rule": "options",
        }
        answers = self.ask(*[{"file_containing_symbol": name} for name in wanted])
        for answer, file in zip(answers, wanted.values()):
            names = self.names(answer)
            self.assertEqual(names[0], "lockstep/v1/%s.proto" % file)
            self.assertEqual(len(set(names)), len(names))
            self.assertEqual("google/protobuf/descriptor.proto" in names, file != "event" or "lockstep/v1/job.proto" in names)

    def test_files_and_extensions(self):
        extension = {"containing_type": "google.protobuf.FieldOptions", "extension_number": 50000}
        answers = self.ask({"file_by_filename": "lockstep/v1/job.proto"},
                           {"file_containing_extension": extension},
                           {"all_extension_numbers_of_type": "google.protobuf.FieldOptions"},
                           {"all_extension_numbers_of_type": "lockstep.v1.Job"})
        self.assertEqual(self.names(answers[0])[0], "lockstep/v1/job.proto")
        self.assertEqual(self.names(answers[1])[0], "lockstep/v1/options.proto")
        self.assertEqual(list(answers[2].all_extension_numbers_response.extension_number), [50000])
        self.assertEqual(list(answers[3].all_extension_numbers_response.extension_number), [])

    def test_errors(self):
        answers = self.ask({"file_by_filename": "nothing.proto"}, {"file_containing_symbol": "a.b"},
                           {"file_containing_extension": {"containing_type": "a", "extension_number": 1}},
                           {"all_extension_numbers_of_type": "a"}, {})
        self.assertEqual([a.error_response.error_code for a in answers], [5, 5, 5, 5, 12])

    def test_many_questions(self):
        # Some 60 MB of answers on one stream, past the queue's limit, in order, while questions go on coming.
        questions = [{"file_containing_symbol": "lockstep.v1.Job"}, {"list_services": ""}] * 600
        answers = self.ask(*questions)
        self.assertEqual(len(answers), 1200)

    def test_one_by_one(self):
        stub = reflection_pb2_grpc.ServerReflectionStub(self.server.channel)
        turn, finish = threading.Semaphore(1), []

        def questions():
            while turn.acquire(timeout=WAIT_S) and not finish:
                yield reflection_pb2.ServerReflectionRequest(list_services="")

        answers = stub.ServerReflectionInfo(questions(), timeout=WAIT_S)
        for _ in range(20):
            self.assertEqual(len(next(answers).list_services_response.service), 4)
            turn.release()
        finish.append(True)
        turn.release()
        list(answers)


class Shutdown(unittest.TestCase):
    def test_drain(self):
        server = Server("drain")
        stuck = server.stub.Cancel.future(service_pb2.JobRequest())
        following = server.stub.Logs(service_pb2.LogsRequest(follow=True, tail=1))
        next(following)
        server.device()
        self.assertEqual(server.stop(), 0)
        for call in (stuck, following):
            self.assertEqual(call.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertEqual(call.details(), "the server is stopping")
        self.assertFalse(os.path.exists(server.path))
        server.channel.close()


if __name__ == "__main__":
    unittest.main(verbosity=1)
