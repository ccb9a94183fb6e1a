/// A response that leaves piece by piece. On a socket of its own, because dart:io's HttpClient has
/// no trailers, and only they can say that a stream ended badly.
library;

import 'dart:async';
import 'dart:convert';
import 'dart:io';
import 'dart:typed_data';

const _prelude = 'application/vnd.awslambda.http-integration-response';
const _octets = 'application/octet-stream';

/// What went wrong, in the words of the Runtime API.
final class Failure {
  Failure(this.error, this.trace, {this.type});

  final Object error;
  final StackTrace trace;

  /// Instead of the error's own type.
  final String? type;

  String get name => type ?? '${error.runtimeType}';

  /// The name, without what a header cannot hold.
  String get headerType => name.replaceAll(RegExp('[^A-Za-z0-9_.<>]'), '_');

  String get message {
    try {
      return '$error';
    } catch (_) {
      return 'its toString() threw';
    }
  }

  Map<String, Object?> toJson() => {
        'errorType': name,
        'errorMessage': message,
        'stackTrace': const LineSplitter().convert('$trace'),
      };
}

/// A value that cannot be written.
final class _NotSayable implements Exception {
  _NotSayable(this.cause);

  final Object cause;

  @override
  String toString() => 'the response cannot be written: $cause';
}

/// Nobody reads any more: the platform has closed the connection.
final class _ReaderLeft implements Exception {
  const _ReaderLeft();
}

/// Send everything that [source] holds. What failed before anything was sent is returned, for the
/// caller to tell; what failed later is told by the trailers.
///
/// The loop waits until each piece is out: a slow reader slows [source] down. When nobody reads any
/// more, the platform closes the connection, the next write fails, and [source] is cancelled.
Future<Failure?> streamResponse(String api, String path, Stream<Object?> source) async {
  _Outlet? outlet;
  try {
    await for (final piece in source) {
      final begun = outlet;
      if (begun == null) {
        final (type, data) = _first(piece);
        outlet = await _Outlet.open(api, path, type);
        await outlet.write(data);
      } else {
        await begun.write(_bytesOf(piece));
      }
    }
    outlet ??= await _Outlet.open(api, path, _octets);
    await outlet.end();
  } on _ReaderLeft {
    outlet?.destroy();
  } catch (error, trace) {
    final type = error is _NotSayable ? 'Runtime.MarshalError' : null;
    final failure = Failure(error, trace, type: type);
    if (outlet == null) {
      return failure;
    }
    try {
      await outlet.end(failure);
    } on _ReaderLeft {
      outlet.destroy();
    }
  }
  return null;
}

/// The content type of a response and its first bytes. An object with `statusCode` is its head.
(String, Uint8List) _first(Object? piece) {
  if (piece is! Map<Object?, Object?> || !piece.containsKey('statusCode')) {
    return (_octets, _bytesOf(piece));
  }
  final head = {
    for (final name in ['statusCode', 'headers', 'cookies'])
      if (piece.containsKey(name)) name: piece[name],
  };
  final bytes = BytesBuilder(copy: false)
    ..add(utf8.encode(_json(head)))
    ..add(Uint8List(8));
  final body = piece['body'];
  if (body is String && piece['isBase64Encoded'] == true) {
    bytes.add(_decoded(body));
  } else if (body != null) {
    bytes.add(utf8.encode(body is String ? body : _json(body)));
  }
  return (_prelude, bytes.takeBytes());
}

Uint8List _decoded(String body) {
  try {
    return base64.decode(body);
  } on FormatException catch (error) {
    throw _NotSayable(error);
  }
}

/// Bytes as they are, text as UTF-8, anything else as a line of JSON.
Uint8List _bytesOf(Object? piece) => switch (piece) {
      final Uint8List bytes => bytes,
      final List<int> bytes => Uint8List.fromList(bytes),
      final String text => Uint8List.fromList(utf8.encode(text)),
      _ => Uint8List.fromList(utf8.encode('${_json(piece)}\n')),
    };

String _json(Object? value) {
  try {
    return jsonEncode(value);
  } catch (error) {
    throw _NotSayable(error);
  }
}

/// The connection on which one response leaves, in HTTP's chunks.
final class _Outlet {
  _Outlet._(this._socket, this._answered);

  final Socket _socket;
  final Future<void> _answered;

  static Future<_Outlet> open(String api, String path, String type) async {
    final [host, port] = api.split(':');
    final socket = await Socket.connect(host, int.parse(port));
    // Both may fail when the other side leaves; the next write says so, too.
    socket.done.ignore();
    final answered = socket.drain<void>()..ignore();
    socket.write(
      'POST $path HTTP/1.1\r\n'
      'Host: $api\r\n'
      'Content-Type: $type\r\n'
      'Lambda-Runtime-Function-Response-Mode: streaming\r\n'
      'Transfer-Encoding: chunked\r\n'
      'Connection: close\r\n\r\n',
    );
    return _Outlet._(socket, answered);
  }

  Future<void> write(List<int> data) async {
    if (data.isNotEmpty) {
      _socket
        ..write('${data.length.toRadixString(16)}\r\n')
        ..add(data)
        ..write('\r\n');
    }
    await _flush();
  }

  Future<void> _flush() async {
    try {
      await _socket.flush();
    } on SocketException {
      throw const _ReaderLeft();
    }
  }

  /// Say that all is said, or what went wrong; returns when the platform has taken it.
  Future<void> end([Failure? failure]) async {
    await stdout.flush();
    await stderr.flush();
    _socket.write('0\r\n');
    if (failure != null) {
      final body = base64.encode(utf8.encode(jsonEncode(failure.toJson())));
      _socket
        ..write('Lambda-Runtime-Function-Error-Type: ${failure.headerType}\r\n')
        ..write('Lambda-Runtime-Function-Error-Body: $body\r\n');
    }
    _socket.write('\r\n');
    await _flush();
    try {
      await _answered;
    } on SocketException {
      throw const _ReaderLeft();
    }
    _socket.destroy();
  }

  void destroy() => _socket.destroy();
}
