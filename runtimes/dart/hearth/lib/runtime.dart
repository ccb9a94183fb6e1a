/// Answers invocations with a handler, over the AWS Lambda Runtime API.
library;

import 'dart:convert';
import 'dart:io';

import 'src/context.dart';
import 'src/streaming.dart';

const _root = '/2018-06-01/runtime/invocation';

/// Ask for invocations and answer each, for as long as the process lives.
///
/// [handler] takes the event and a [Context]. It returns a value that JSON can hold, a stream of
/// bytes, text or such values, or a future of either. An error of it is its call's error.
Future<void> serve(Function handler) async {
  final api = Platform.environment['AWS_LAMBDA_RUNTIME_API'];
  if (api == null) {
    throw StateError('AWS_LAMBDA_RUNTIME_API is not set: this program is run by Hearth');
  }
  // A proxy that the function's environment names is not for the loopback.
  final client = HttpClient()..findProxy = null;
  while (true) {
    await _Invocation(api, client).run(handler);
  }
}

/// One event, from the question for it to its answer.
final class _Invocation {
  _Invocation(this._api, this._client);

  final String _api;
  final HttpClient _client;
  String _id = '';

  Future<void> run(Function handler) async {
    final request = await _client.getUrl(Uri.parse('http://$_api$_root/next'));
    final response = await request.close();
    final text = await utf8.decodeStream(response);
    if (response.statusCode != HttpStatus.ok) {
      throw HttpException('next was answered ${response.statusCode}: $text');
    }
    final context = _contextOf(response.headers, Platform.environment);
    _id = context.awsRequestId;
    final Object? event;
    try {
      event = jsonDecode(text);
    } on FormatException catch (error, trace) {
      await _fail(error, trace, 'Runtime.UnmarshalError');
      return;
    }
    await _answer(handler, event, context);
  }

  Future<void> _answer(Function handler, Object? event, Context context) async {
    Object? result;
    try {
      result = handler(event, context);
      if (result is Future<Object?>) {
        result = await result;
      }
    } catch (error, trace) {
      await _fail(error, trace);
      return;
    }
    if (result is Stream<Object?>) {
      final failure = await streamResponse(_api, '$_root/$_id/response', result);
      if (failure != null) {
        await _fail(failure.error, failure.trace, failure.type);
      }
      return;
    }
    final String body;
    try {
      body = jsonEncode(result);
    } catch (error, trace) {
      await _fail(error, trace, 'Runtime.MarshalError');
      return;
    }
    await _post('response', body);
  }

  Future<void> _fail(Object error, StackTrace trace, [String? type]) async {
    final failure = Failure(error, trace, type: type);
    await _post('error', jsonEncode(failure.toJson()), {
      'Lambda-Runtime-Function-Error-Type': failure.headerType,
    });
  }

  Future<void> _post(String what, String body, [Map<String, String> headers = const {}]) async {
    await stdout.flush();
    await stderr.flush();
    final request = await _client.postUrl(Uri.parse('http://$_api$_root/$_id/$what'));
    final bytes = utf8.encode(body);
    request.headers.contentType = ContentType.json;
    headers.forEach(request.headers.set);
    request.contentLength = bytes.length;
    request.add(bytes);
    final response = await request.close();
    await response.drain<void>();
    // 413: the platform has told the caller. Anything else is answered too: there is no second try.
  }
}

Context _contextOf(HttpHeaders headers, Map<String, String> environment) => Context(
      awsRequestId: headers.value('lambda-runtime-aws-request-id') ?? '',
      deadline: int.parse(headers.value('lambda-runtime-deadline-ms') ?? '0'),
      invokedFunctionArn: headers.value('lambda-runtime-invoked-function-arn') ?? '',
      traceId: headers.value('lambda-runtime-trace-id'),
      functionName: environment['AWS_LAMBDA_FUNCTION_NAME'] ?? '',
      functionVersion: environment['AWS_LAMBDA_FUNCTION_VERSION'] ?? '',
      memoryLimitInMB: environment['AWS_LAMBDA_FUNCTION_MEMORY_SIZE'] ?? '',
      logGroupName: environment['AWS_LAMBDA_LOG_GROUP_NAME'] ?? '',
      logStreamName: environment['AWS_LAMBDA_LOG_STREAM_NAME'] ?? '',
    );
