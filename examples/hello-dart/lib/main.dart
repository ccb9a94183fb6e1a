// Greets whoever calls: a Lambda handler in Dart, compiled ahead of time by the build.

import 'dart:convert';

import 'package:hearth/hearth.dart';

/// The name comes as JSON ({"name": "Ada"}), or as ?name= when called over HTTP.
Future<Object?> handler(Map<String, dynamic> event, Context context) async {
  final name = _name(event);
  print('greeting $name, request ${context.awsRequestId}');
  return {
    'message': 'Hello, $name!',
    'function': context.functionName,
    'version': context.functionVersion,
  };
}

String _name(Map<String, dynamic> event) => switch (event) {
      {'queryStringParameters': {'name': final String name}} => name,
      {'body': final String body} => _name(jsonDecode(body) as Map<String, dynamic>),
      {'name': final String name} => name,
      _ => 'world',
    };
