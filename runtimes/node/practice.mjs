// The function that a stem practises with.

export const handler = async (event) => event;
