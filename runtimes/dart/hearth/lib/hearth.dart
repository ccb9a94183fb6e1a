/// What a function imports: the context that its handler is given.
library;

export 'src/context.dart' show Context;
