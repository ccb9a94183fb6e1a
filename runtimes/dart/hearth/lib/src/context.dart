/// What AWS Lambda hands a handler beside the event.
final class Context {
  const Context({
    required this.awsRequestId,
    required this.deadline,
    required this.invokedFunctionArn,
    required this.functionName,
    required this.functionVersion,
    required this.memoryLimitInMB,
    required this.logGroupName,
    required this.logStreamName,
    this.traceId,
  });

  final String awsRequestId;

  /// When the platform ends this call: Unix time in milliseconds.
  final int deadline;

  final String invokedFunctionArn;
  final String functionName;
  final String functionVersion;

  /// Text, as on AWS.
  final String memoryLimitInMB;

  final String logGroupName;
  final String logStreamName;

  /// The caller's trace as AWS X-Ray writes it, or null.
  final String? traceId;

  /// Milliseconds until the platform ends this call, never negative.
  int getRemainingTimeInMillis() {
    final left = deadline - DateTime.now().millisecondsSinceEpoch;
    return left < 0 ? 0 : left;
  }
}
